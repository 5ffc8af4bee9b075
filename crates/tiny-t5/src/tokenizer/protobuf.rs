//! Protobuf's wire format: (field number, value) after (field number, value).

/// What stands in a field.
#[derive(Debug, PartialEq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(&'a [u8]),
}

/// The fields of a message, in order.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field; an error says what was found.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, String> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let cut = "a protobuf field that is cut short";
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.array::<8>().map(|_| Value::Fixed64).ok_or(cut)?,
            2 => {
                let length = self.varint()?;
                let split = usize::try_from(length).ok().and_then(|n| self.rest.split_at_checked(n));
                let (bytes, rest) = split
                    .ok_or_else(|| format!("a protobuf field of {length} bytes where {} are left", self.rest.len()))?;
                self.rest = rest;
                Value::Bytes(bytes)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.array().ok_or(cut)?)),
            kind => return Err(format!("protobuf wire type {kind}")),
        };
        match key >> 3 {
            0 => Err("protobuf field number 0".into()),
            field => Ok(Some((field, value))),
        }
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*bytes)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, String> {
        // Most are one byte: keys, the lengths of pieces, their types.
        if let Some((&byte, rest)) = self.rest.split_first()
            && byte < 0x80
        {
            self.rest = rest;
            return Ok(byte.into());
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for (at, &byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        Err("a protobuf number without an end".into())
    }
}

#[cfg(test)]
mod tests {
    use super::{Fields, Value};

    #[test]
    fn every_wire_type() {
        let mut fields =
            Fields::new(&[0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x1d, 0, 0, 0x80, 0x3f, 0x21, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(fields.next(), Ok(Some((1, Value::Varint(150)))));
        assert_eq!(fields.next(), Ok(Some((2, Value::Bytes(b"hi")))));
        assert_eq!(fields.next(), Ok(Some((3, Value::Fixed32(0x3f80_0000)))));
        assert_eq!(fields.next(), Ok(Some((4, Value::Fixed64))));
        assert_eq!(fields.next(), Ok(None));
    }

    #[test]
    fn broken_messages() {
        for message in [&[0x08][..], &[0x08, 0x80], &[0x12, 3, 1], &[0x1d, 1], &[0x0b], &[0, 1], &[0x80; 11]] {
            assert!(Fields::new(message).next().is_err(), "{message:?}");
        }
    }
}
