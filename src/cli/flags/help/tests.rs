use super::*;

#[test]
fn the_version_has_etcds_four_lines() {
    let text = version();
    let starts = [
        "etcd Version: 3.7.1",
        "Git SHA: ",
        "Go Version: ",
        "Go OS/Arch: linux/",
    ];
    assert_eq!(text.lines().count(), starts.len());
    for (line, start) in text.lines().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
}

#[test]
fn every_flag_is_in_the_help() {
    let text = all_flags();
    for flag in SECTIONS.iter().flat_map(|section| section.flags) {
        assert!(text.contains(&format!("\n  --{} '", flag.name)), "{}", flag.name);
    }
}
