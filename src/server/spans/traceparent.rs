//! W3C Trace Context: the caller's place in a trace, "00-<trace id>-<span id>-<flags>" in lower-case hexadecimal.

/// The caller's span.
#[derive(PartialEq, Eq, Debug)]
pub struct Parent {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    pub is_sampled: bool,
}

/// `None` for what is not valid, which counts as absent.
pub fn parse(header: &[u8]) -> Option<Parent> {
    let mut fields = header.split(|byte| *byte == b'-');
    let [version] = hexadecimal(fields.next()?)?;
    let trace_id = hexadecimal(fields.next()?)?;
    let span_id = hexadecimal(fields.next()?)?;
    let [flags] = hexadecimal(fields.next()?)?;
    // Versions to come may say more.
    let is_known = version == 0 && fields.next().is_none() || (1..0xff).contains(&version);
    let is_valid = is_known && trace_id != [0; 16] && span_id != [0; 8];
    is_valid.then_some(Parent {
        trace_id,
        span_id,
        is_sampled: flags & 1 == 1,
    })
}

fn hexadecimal<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let pairs = text.chunks_exact(2);
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
