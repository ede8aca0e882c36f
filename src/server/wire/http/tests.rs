use super::*;

#[test]
fn a_query_may_repeat_a_name() {
    let query = Query::parse("verbose&exclude=a&exclude=b&serializable=true");
    assert!(query.has("verbose") && !query.has("a"));
    assert_eq!(query.all("exclude"), ["a", "b"]);
    assert!(query.is("serializable", "true") && !query.is("exclude", "b"));
    assert_eq!(Query::parse(""), Query(vec![]));
}

#[test]
fn a_path_may_name_one_check() {
    assert_eq!(
        single_check("/livez/serializable_read"),
        Some(Check::SerializableRead)
    );
    assert_eq!(single_check("/livez/linearizable_read"), None);
    assert_eq!(
        single_check("/readyz/linearizable_read"),
        Some(Check::LinearizableRead)
    );
    assert_eq!(single_check("/readyz/"), None);
}
