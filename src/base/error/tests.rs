use super::*;

const PAGE: &str = include_str!("../../../docs/write-errors.md");

/// In the spelling of the page: the wire's.
fn upper(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// Rows of refusals: code, texts, and whether a write may have happened.
fn rows() -> Vec<(String, Vec<&'static str>, bool)> {
    let row = |line: &'static str| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let texts = |cell: &'static str| cell.split('`').skip(1).step_by(2).collect();
        let code = (*cells.first()?).to_owned();
        match cells[..] {
            [_, cell, _, may] if ["yes", "no"].contains(&may) => Some((code, texts(cell), may == "yes")),
            [_, cell] => Some((code, texts(cell), false)),
            _ => None,
        }
    };
    PAGE.lines()
        .filter(|line| line.starts_with("| "))
        .filter_map(row)
        .collect()
}

#[test]
fn the_page_says_of_each_refusal_whether_a_write_may_have_happened() {
    let rows = rows();
    for denied in Denied::ALL {
        let says = |(code, texts, _): &&(String, Vec<&str>, bool)| {
            *code == upper(denied.code()) && texts.contains(&denied.text())
        };
        let found: Vec<bool> = rows.iter().filter(says).map(|(.., may)| *may).collect();
        assert_eq!(
            found,
            [denied.may_have_happened()],
            "{} {denied}",
            upper(denied.code())
        );
    }
}

#[test]
fn every_refusal_on_the_page_exists() {
    let mut texts = 0;
    for text in rows().into_iter().flat_map(|(_, texts, _)| texts) {
        assert!(Denied::ALL.iter().any(|denied| denied.text() == text), "{text}");
        texts += 1;
    }
    assert!(texts >= Denied::ALL.len());
}

#[test]
fn what_locks_pass_on_keeps_its_text_and_its_meaning() {
    for denied in Denied::ALL {
        let passed_on = denied.through_client();
        let keeps_code = matches!(denied.code(), Code::Canceled | Code::DeadlineExceeded);
        let code = if keeps_code { denied.code() } else { Code::Unknown };
        assert_eq!((passed_on.code(), passed_on.text()), (code, denied.text()));
        assert_eq!(passed_on.may_have_happened(), denied.may_have_happened());
    }
}
