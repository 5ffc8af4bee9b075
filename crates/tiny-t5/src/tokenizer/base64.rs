//! Base64 (RFC 4648, padded): how tokenizer.json carries the character map.

/// The bytes of `text`; `None` if it is not base64.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let body = match text {
        [body @ .., b'=', b'='] | [body @ .., b'='] => body,
        body => body,
    };
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let value = |byte: u8| u32::from(VALUES[byte as usize]);
    let mut groups = body.chunks_exact(4);
    let mut seen = 0;
    for group in &mut groups {
        let values = [value(group[0]), value(group[1]), value(group[2]), value(group[3])];
        seen |= values[0] | values[1] | values[2] | values[3];
        let bits = values[0] << 18 | values[1] << 12 | values[2] << 6 | values[3];
        let [_, bytes @ ..] = bits.to_be_bytes();
        out.extend_from_slice(&bytes);
    }
    // The bits of the last group that are no byte are zero.
    match groups.remainder().iter().map(|&byte| value(byte)).collect::<Vec<_>>()[..] {
        [] => {}
        [a, b] if b & 0b1111 == 0 => {
            seen |= a | b;
            out.push((a << 2 | b >> 4) as u8);
        }
        [a, b, c] if c & 0b11 == 0 => {
            seen |= a | b | c;
            out.extend_from_slice(&[(a << 2 | b >> 4) as u8, (b << 4 | c >> 2) as u8]);
        }
        _ => return None,
    }
    (seen < 64).then_some(out)
}

const BAD: u8 = 0xff;

const VALUES: [u8; 256] = {
    let mut values = [BAD; 256];
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut value = 0;
    while value < 64 {
        values[alphabet[value] as usize] = value as u8;
        value += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn vectors_of_the_rfc() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()));
        }
        for bad in ["Zg", "Zg=", "Zh==", "Z===", "====", "Zm9v\n", "Z=9v", "Zm-_"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
