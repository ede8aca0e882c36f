//! Paths of HTTP requests as Go's `ServeMux` reads them: percent-encoding undone, and a redirect to the clean path for
//! what has empty or dotted segments.

/// What a path says.
#[derive(Debug, PartialEq, Eq)]
pub enum Resolved {
    /// Below `/v3/`.
    Gateway(String),
    /// Any other; an encoded slash is left as it is, since it separates nothing.
    Plain(String),
    /// The path to ask for instead.
    Elsewhere(String),
    Malformed,
}

/// `gateway`: whether it is served.
pub fn resolve(path: &str, gateway: bool) -> Resolved {
    let Some(decoded) = decode(path) else {
        return Resolved::Malformed;
    };
    // An old name. What is behind it counts as decoded, and so must not be decoded again.
    let renamed = decoded
        .strip_prefix("/v3beta/")
        .map(|rest| format!("/v3/{}", escape(rest)));
    let path = renamed.as_deref().unwrap_or(path);
    let clean = clean(path);
    if gateway && clean == "/v3" {
        return Resolved::Elsewhere("/v3/".into());
    }
    if clean != path {
        return Resolved::Elsewhere(escape(&clean));
    }
    if gateway
        && let Some((first, rest)) = path.trim_start_matches('/').split_once('/')
        && decode(first).is_some_and(|first| first == "v3")
    {
        return decode(rest).map_or(Resolved::Malformed, Resolved::Gateway);
    }
    let segment = |segment| decode(segment).map(|decoded| decoded.replace('/', "%2F"));
    let segments: Option<Vec<String>> = path.split('/').map(segment).collect();
    segments.map_or(Resolved::Malformed, |segments| {
        Resolved::Plain(segments.join("/"))
    })
}

fn decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    // No path that is served has anything but ASCII.
    Some(String::from_utf8_lossy(&decoded).into_owned())
}

fn escape(text: &str) -> String {
    text.replace('%', "%25")
}

/// Without empty segments, `.` and `..`; a slash at the end stays.
fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let end = if path.ends_with('/') && !kept.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{end}", kept.join("/"))
}

#[cfg(test)]
mod tests;
