use super::*;

#[test]
fn sizes_are_written_as_etcdutl_writes_them() {
    for (bytes, text) in [
        (0, "0 B"),
        (999, "999 B"),
        (20_480, "20 kB"),
        (196_608, "197 kB"),
        (1_500_000, "1.5 MB"),
    ] {
        assert_eq!(human(bytes), text);
    }
}
