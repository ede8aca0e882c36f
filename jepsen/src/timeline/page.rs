//! The page: data, style and script in one file that loads nothing.
//!
//! ```text
//!   page/page.html  {{style}} ◄─ page/page.css
//!                   {{data}}  ◄─ Timeline as JSON, with "<" escaped: no text of a key can end the script
//!                   {{script}} ◄─ page/*.js, one after the other in one function
//! ```
//!
//! The page's content security policy lets a browser load nothing from anywhere, so that what a test
//! says of the text ("no address in it") the browser enforces.

use super::data::Timeline;
use super::thin::thin;

/// A page is smaller than this.
pub const PAGE_BYTES_MAX: usize = 2_000_000;

pub(super) const HTML: &str = include_str!("page/page.html");
pub(super) const STYLE: &str = include_str!("page/page.css");
/// In the order of their dependence: each file may use those before it.
pub(super) const SCRIPTS: [&str; 6] = [
    include_str!("page/model.js"),
    include_str!("page/view.js"),
    include_str!("page/lanes.js"),
    include_str!("page/overview.js"),
    include_str!("page/panel.js"),
    include_str!("page/main.js"),
];

/// Where the data begins and ends in a page.
const DATA_BEGINS: &str = "<script type=\"application/json\" id=\"timeline\">";
const DATA_ENDS: &str = "</script>";

/// The page, at most `bytes_max` long; what does not fit is left out, and the page says so.
pub fn render(timeline: &Timeline, bytes_max: usize) -> String {
    let frame = frame(timeline, "");
    let mut timeline = timeline.clone();
    // Escapes make it a little longer than plain JSON.
    let room = bytes_max.saturating_sub(frame.len()) / 100 * 98;
    thin(&mut timeline, room);
    let data = serde_json::to_string(&timeline).expect("plain data");
    self::frame(&timeline, &escape_json(&data))
}

fn frame(timeline: &Timeline, data: &str) -> String {
    let data = format!("{DATA_BEGINS}{data}{DATA_ENDS}");
    let script = SCRIPTS.join("\n");
    let title = escape_html(&timeline.title);
    // What is filled in may itself contain a placeholder: the parts are looked for in the template alone.
    let mut page = String::new();
    let mut rest = HTML;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").expect("placeholders are closed");
        page.push_str(before);
        page.push_str(match name {
            "title" => &title,
            "style" => STYLE,
            "data" => &data,
            "script" => &script,
            other => unreachable!("the template has no placeholder {other}"),
        });
        rest = after;
    }
    page.push_str(rest);
    page
}

/// JSON that can stand in an HTML script: nothing in it is a tag or a comment.
fn escape_json(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// The data of a page.
#[cfg(test)]
pub(super) fn read_back(page: &str) -> Timeline {
    let (_, after) = page.split_once(DATA_BEGINS).expect("a page has data");
    let (data, _) = after.split_once(DATA_ENDS).expect("the data ends");
    serde_json::from_str(data).expect("the data is JSON")
}
