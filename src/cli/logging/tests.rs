use super::*;

fn line() -> Line {
    let mut line = Line::new(
        Level::Info,
        Duration::from_micros(1_785_000_000_000_042),
        "a \"b\"".into(),
    );
    line.caller = caller(Some("/x/src/cli/serve.rs"), Some(40));
    line.fields
        .push(("args".into(), serde_json::json!(["q", "--name"])));
    line.fields.push(("data-dir".into(), "d".into()));
    line
}

#[test]
fn json_lines_are_zaps() {
    let expected = r#"{"level":"info","ts":"2026-07-25T17:20:00.000042Z","caller":"cli/serve.rs:40","msg":"a \"b\"","args":["q","--name"],"data-dir":"d"}"#;
    assert_eq!(line().json(), expected);
}

#[test]
fn console_lines_are_zaps() {
    let expected = "2026-07-25T17:20:00.000042Z\tinfo\tcli/serve.rs:40\ta \"b\"\t{\"args\": [\"q\",\"--name\"], \"data-dir\": \"d\"}";
    assert_eq!(line().console(), expected);
}

#[test]
fn levels_are_zaps() {
    let check = |text: &str, level| assert_eq!(Level::parse(text), level);
    check("debug", Some(Level::Debug));
    check("WARN", Some(Level::Warn));
    check("dpanic", Some(Level::Panic));
    check("", Some(Level::Info));
    check("Info", None);
    check("loud", None);
}

#[test]
fn outputs_are_checked() {
    let env = crate::runtime::tokio::env();
    let check = |outputs: &str, error: &str| {
        assert_eq!(open_sinks(&env, outputs, None).err().as_deref(), Some(error))
    };
    check(
        "default,stdout",
        "multi logoutput for \"default\" is not supported yet",
    );
    check(
        "systemd/journal",
        "--log-outputs=systemd/journal is not supported yet",
    );
    assert!(open_sinks(&env, "/nonexistent/x", None).is_err());
    assert_eq!(
        open_sinks(&env, "stderr,stdout", None).map(|sinks| sinks.len()),
        Ok(2)
    );
}
