use super::*;

#[test]
fn what_the_standard_calls_invalid_is_no_parent() {
    let ids = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
    let sampled = |header: String| parse(header.as_bytes()).map(|parent| parent.is_sampled);
    assert_eq!(sampled(format!("00-{ids}-01")), Some(true));
    assert_eq!(sampled(format!("00-{ids}-00")), Some(false));
    assert_eq!(sampled(format!("01-{ids}-03-more")), Some(true));
    for invalid in [
        String::new(),
        format!("00-{ids}"),
        format!("00-{ids}-01-more"),
        format!("ff-{ids}-01"),
        format!("00-{}-01", ids.to_uppercase()),
        format!("00-{ids}0-01"),
        "00-00000000000000000000000000000000-b7ad6b7169203331-01".to_owned(),
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01".to_owned(),
    ] {
        assert_eq!(sampled(invalid.clone()), None, "{invalid}");
    }
    let parent = parse(format!("00-{ids}-01").as_bytes()).unwrap();
    assert_eq!(parent.span_id, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
}
