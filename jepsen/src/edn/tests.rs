use quorate::proto::etcdserverpb as pb;

use super::write;
use crate::forge::Forge;
use crate::history::{History, Outcome, Recorder};

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    }
}

fn export(history: &History) -> String {
    let mut out = Vec::new();
    write(history, &mut out).expect("a vector takes everything");
    String::from_utf8(out).expect("ASCII")
}

#[test]
fn a_history_reads_as_jepsen_writes_it() {
    let recorder = Recorder::new();
    let first = recorder.invoke(0, 0, 10, put("a\"\0", "1").into());
    let second = recorder.invoke(1, 0, 20, put("b", "2").into());
    recorder.note(25, "kill member 0");
    let header = Some(pb::ResponseHeader {
        revision: 2,
        ..Default::default()
    });
    let answer = pb::PutResponse {
        header,
        prev_kv: None,
    };
    recorder.complete(first, 30, Outcome::Ok(answer.into()));
    recorder.complete(second, 40, Outcome::unknown("lost"));
    recorder.invoke(1, 0, 50, pb::LeaseRevokeRequest { id: 5 }.into());
    let expected = [
        r#"{:type :invoke, :f :put, :value {:key "a\"\u0000" :value "1"}, :process 0, :time 10, :index 0}"#,
        r#"{:type :invoke, :f :put, :value {:key "b" :value "2"}, :process 1, :time 20, :index 1}"#,
        r#"{:type :info, :f :nemesis, :value "kill member 0", :process :nemesis, :time 25, :index 2}"#,
        r#"{:type :ok, :f :put, :value {:request {:key "a\"\u0000" :value "1"} :revision 2 :prev nil}, :process 0, :time 30, :index 3}"#,
        r#"{:type :info, :f :put, :value {:error "lost"}, :process 1, :time 40, :index 4}"#,
        r#"{:type :invoke, :f :lease-revoke, :value {:lease 5}, :process 3, :time 50, :index 5}"#,
    ];
    assert_eq!(export(&recorder.take()).lines().collect::<Vec<_>>(), expected);
}

/// Brackets match outside strings, and no process has two calls under way.
#[test]
fn a_forged_history_is_well_formed() {
    let text = export(&Forge::new(5).run().0);
    let mut busy = std::collections::BTreeSet::new();
    for line in text.lines() {
        let (mut depth, mut quoted, mut escaped) = (0, false, false);
        for character in line.chars() {
            match character {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => quoted = !quoted,
                '{' | '[' if !quoted => depth += 1,
                '}' | ']' if !quoted => depth -= 1,
                _ => {}
            }
        }
        assert!(depth == 0 && !quoted, "{line}");
        let process = line.split(":process ").nth(1).expect("every line has a process");
        let process = process
            .split(',')
            .next()
            .expect("split gives a first part")
            .to_owned();
        if line.starts_with("{:type :invoke") {
            assert!(busy.insert(process), "{line}");
        } else {
            assert!(busy.remove(&process), "{line}");
        }
    }
    assert!(text.lines().count() > 500);
}
