use super::*;

fn parse(line: &str) -> Result<Arguments, String> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    Arguments::parse(&words)
}

#[test]
fn flags_stand_anywhere() {
    let arguments = parse("--rev=3 file -w json --mark-compacted").unwrap();
    assert_eq!(arguments.only("file"), Ok("file"));
    assert_eq!(
        (arguments.number("rev"), arguments.text("w")),
        (Ok(3), Some("json"))
    );
    assert!(arguments.switch("mark-compacted") && !arguments.switch("skip-hash-check"));
    for wrong in ["--what", "--rev"] {
        assert!(parse(wrong).is_err());
    }
    assert!(parse("a b").unwrap().only("file").is_err());
    assert!(parse("--rev=x f").unwrap().number("rev").is_err());
}
