use super::*;

#[test]
fn a_version_may_lack_its_patch() {
    assert_eq!(parse("3.6"), Some(Version::new(3, 6, 0)));
    assert_eq!(parse("3.6.1"), Some(Version::new(3, 6, 1)));
    assert_eq!((parse("3"), parse(""), parse("3.6.0.1")), (None, None, None));
}

#[test]
fn the_lowest_member_decides_and_a_downgrade_goes_one_minor_down() {
    let [v3, v5, v6, v7] = [0, 5, 6, 7].map(|minor| Version::new(3, minor, 0));
    assert_eq!(decide(None, None, None), Some(v3.clone()));
    assert_eq!(decide(None, Some(v7.clone()), None), Some(v7.clone()));
    assert_eq!(decide(Some(&v3), None, None), None, "somebody does not say");
    assert_eq!(decide(Some(&v3), Some(v7.clone()), None), Some(v7.clone()));
    assert_eq!(
        decide(Some(&v7), Some(v6.clone()), None),
        None,
        "never down by itself"
    );
    assert_eq!(decide(Some(&v7), Some(v7.clone()), Some(&v6)), Some(v6.clone()));
    assert_eq!(
        decide(Some(&v6), Some(v7.clone()), Some(&v6)),
        None,
        "it is there"
    );
    assert_eq!(decide(Some(&v7), Some(v7.clone()), Some(&v5)), None);
}
