use super::*;

#[test]
fn paths_are_read_as_go_reads_them() {
    let gateway = |path: &str| Resolved::Gateway(path.into());
    let plain = |path: &str| Resolved::Plain(path.into());
    let elsewhere = |path: &str| Resolved::Elsewhere(path.into());
    for (path, expected) in [
        ("/v3/kv/range", gateway("kv/range")),
        ("/v3/kv/%72ange", gateway("kv/range")),
        ("/v3/kv%2Frange", gateway("kv/range")),
        ("/%763/kv/range", gateway("kv/range")),
        ("/v3/kv/range%2f", gateway("kv/range/")),
        ("/v3/kv/range/", gateway("kv/range/")),
        ("/v3/", gateway("")),
        ("/v3beta/kv/range", gateway("kv/range")),
        ("/v3%2Fkv/range", plain("/v3%2Fkv/range")),
        ("/v3beta", plain("/v3beta")),
        ("/", plain("/")),
        ("/%68ealth", plain("/health")),
        ("/livez/%73erializable_read", plain("/livez/serializable_read")),
        ("/livez%2fserializable_read", plain("/livez%2Fserializable_read")),
        ("/v3", elsewhere("/v3/")),
        ("//v3/kv/range", elsewhere("/v3/kv/range")),
        ("//v3/kv/%72ange", elsewhere("/v3/kv/%2572ange")),
        ("/v3beta//kv/range", elsewhere("/v3/kv/range")),
        ("/v3//", elsewhere("/v3/")),
        ("/v3/./kv/../kv/range", elsewhere("/v3/kv/range")),
        ("/../..", elsewhere("/")),
        ("/version/.", elsewhere("/version")),
        ("*", elsewhere("/*")),
        ("/v3/kv/range%zz", Resolved::Malformed),
        ("/%", Resolved::Malformed),
        ("/%4", Resolved::Malformed),
    ] {
        assert_eq!(resolve(path, true), expected, "{path}");
    }
    assert_eq!(resolve("/v3/kv/range", false), plain("/v3/kv/range"));
    assert_eq!(resolve("/v3", false), plain("/v3"));
}
