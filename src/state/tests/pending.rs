//! Reads through an overlay of changes.

use super::*;

fn store(rows: &[(&str, &str)]) -> Maps {
    let mut batch = Batch::default();
    for (key, value) in rows {
        batch.put(Space::Leases, bytes(key), bytes(value));
        batch.put(Space::Meta, bytes(key), bytes("elsewhere"));
    }
    let mut store = Maps::default();
    store.write(batch);
    store
}

fn scanned(pending: &Pending<'_>, from: &str, to: Option<&str>, most: usize) -> String {
    let mut rows = Vec::new();
    pending
        .scan(
            Space::Leases,
            from.as_bytes(),
            to.map(str::as_bytes),
            &mut |key, value| {
                rows.push(format!("{}={}", text(&Bytes::copy_from_slice(key)), text(&value)));
                if rows.len() == most {
                    Visit::Stop
                } else {
                    Visit::Continue
                }
            },
        )
        .unwrap();
    rows.join(" ")
}

#[test]
fn an_overlay_is_read_as_if_it_were_written() {
    let base = store(&[("b", "1"), ("d", "1"), ("f", "1")]);
    let mut pending = Pending::new(&base);
    for (key, value) in [
        ("a", Some("2")),
        ("b", Some("2")),
        ("d", None),
        ("e", Some("2")),
        ("g", Some("2")),
    ] {
        match value {
            Some(value) => pending.put(Space::Leases, bytes(key), bytes(value)),
            None => pending.delete(Space::Leases, bytes(key)),
        }
    }
    pending.delete(Space::Leases, bytes("never there"));
    for (from, to, most, expected) in [
        ("", None, 9, "a=2 b=2 e=2 f=1 g=2"),
        ("b", Some("f"), 9, "b=2 e=2"),
        ("b", Some("b"), 9, ""),
        ("c", None, 9, "e=2 f=1 g=2"),
        ("", None, 1, "a=2"),
        ("", None, 2, "a=2 b=2"),
        ("", None, 4, "a=2 b=2 e=2 f=1"),
        ("f", None, 2, "f=1 g=2"),
    ] {
        assert_eq!(
            scanned(&pending, from, to, most),
            expected,
            "{from:?}..{to:?}, {most}"
        );
    }
    let get = |key: &str| pending.get(Space::Leases, key.as_bytes()).unwrap();
    assert_eq!(
        (get("b"), get("d"), get("f")),
        (Some(bytes("2")), None, Some(bytes("1")))
    );
    assert_eq!(pending.get(Space::Meta, b"d").unwrap(), Some(bytes("elsewhere")));
    let mut written = base.clone();
    let expected = scanned(&pending, "", None, 99);
    written.write(pending.into_batch());
    assert_eq!(scanned(&Pending::new(&written), "", None, 99), expected);
}
