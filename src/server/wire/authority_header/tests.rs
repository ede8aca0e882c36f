use super::*;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
    [&head[..], payload].concat()
}

/// What comes out of a connection with these frames, however its bytes arrive.
fn passed(frames: &[Vec<u8>]) -> Vec<u8> {
    let bytes = [PREFACE, &frames.concat()].concat();
    let read_in = |size: usize| {
        let mut bytes = bytes.clone();
        let mut scanner = AnyAuthority::new(()).scanner;
        bytes.chunks_mut(size).for_each(|part| scanner.pass(part));
        bytes
    };
    let whole = read_in(bytes.len());
    for size in 1..30 {
        assert_eq!(read_in(size), whole, "read in pieces of {size}");
    }
    whole[PREFACE.len()..].to_vec()
}

/// `:method POST`, `:scheme http`, and a path of `length` bytes.
fn before(length: usize) -> Vec<u8> {
    let mut fields = vec![0x83, 0x86, 0x45];
    match length.checked_sub(127) {
        None => fields.push(length as u8),
        Some(more) => fields.extend([127, 0x80 | (more & 0x7f) as u8, (more >> 7) as u8]),
    }
    fields.extend(vec![AUTHORITY; length]);
    fields
}

const NAMED: [u8; 3] = [AUTHORITY, 1, b'#'];
const RENAMED: [u8; 3] = [SET_COOKIE, 1, b'#'];

#[test]
fn an_authority_that_is_the_fourth_field_is_renamed() {
    let settings = frame(4, 0, &[AUTHORITY; 12]);
    let data = frame(0, 0, &[AUTHORITY; 40]);
    for length in [1, 60, 126, 127, 300, 1000] {
        let fields = |end: &[u8]| [&before(length), end, &[AUTHORITY, 1, b'!']].concat();
        let connection = |end: &[u8]| {
            let resized = [&[0x3f, 0xe1, 0x1f], &fields(end)[..]].concat();
            let extra = [&[1, 0, 0, 0, 0, 9], &fields(end)[..], &[0]].concat();
            [
                settings.clone(),
                frame(HEADERS, 4, &fields(end)),
                data.clone(),
                frame(HEADERS, 4, &[]),
                frame(HEADERS, 4, &resized),
                frame(HEADERS, 4 | FLAG_PADDED | FLAG_PRIORITY, &extra),
            ]
        };
        assert_eq!(passed(&connection(&NAMED)), connection(&RENAMED).concat());
    }
}

#[test]
fn everything_else_passes_as_it_is() {
    let path = [0x04, 1, b'/'];
    let new_name = [0x40, 2, b':', b'x', 1, AUTHORITY];
    for fields in [
        // Another pseudo-header follows.
        [&[0x83, 0x86], &NAMED[..], &path].concat(),
        // Known to both sides since an earlier request.
        [&before(5)[..], &[0xbe, 0x5f, 1, AUTHORITY]].concat(),
        [&[0x83, 0xff, 0x01, 0x86], &new_name[..], &NAMED].concat(),
        vec![
            0x45, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, AUTHORITY,
        ],
    ] {
        let connection = [frame(HEADERS, 4, &fields), frame(0, 0, &[AUTHORITY; 9])];
        assert_eq!(passed(&connection), connection.concat(), "{fields:02x?}");
    }
    let mut http1 = b"GET /version HTTP/1.1\r\n\r\n".to_vec();
    let before = http1.clone();
    AnyAuthority::new(()).scanner.pass(&mut http1);
    assert_eq!(http1, before);
}
