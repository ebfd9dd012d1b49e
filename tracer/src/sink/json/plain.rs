//! JSON of the records that come by the thousand, as [`crate::json`] writes it, byte for byte.
//!
//! A record is mostly keys and numbers. Keys are plain words, which `serde_json` searches for what
//! must be escaped each time. What is rare here (text with something to escape, or none of ASCII) is left to
//! it, and so are records with anything else than what is here: floats, maps, negative numbers.

use std::fmt;

use serde::{
    Serialize,
    ser::{self, Impossible, SerializeSeq, SerializeStruct, Serializer},
};

use crate::json;

/// Appends a value; whether it was one of those that this can write. If not, what was appended is
/// of no use.
pub fn write(value: &impl Serialize, out: &mut Vec<u8>) -> bool {
    value.serialize(Plain { out }).is_ok()
}

/// It is something that this does not write.
#[derive(Debug)]
pub struct Other;

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not of the records that come by the thousand")
    }
}

impl std::error::Error for Other {}

impl ser::Error for Other {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

struct Plain<'a> {
    out: &'a mut Vec<u8>,
}

/// Appends a number in decimal.
fn number(mut n: u64, out: &mut Vec<u8>) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends text between quotes.
fn quoted(text: &str, out: &mut Vec<u8>) -> Result<(), Other> {
    let to_escape = |&b: &u8| b < b' ' || b == b'"' || b == b'\\' || !json::is_plain(b);
    if text.as_bytes().iter().any(to_escape) {
        return json::write(out, text).map_err(|_| Other);
    }
    out.reserve(text.len() + 2);
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
    Ok(())
}

macro_rules! unsigned {
    ($($name:ident($type:ty))+) => { $(
        fn $name(self, value: $type) -> Result<(), Other> {
            number(value.into(), self.out);
            Ok(())
        }
    )+ };
}

macro_rules! others {
    ($($name:ident($($type:ty),*) -> $what:ty;)+) => { $(
        fn $name(self, $(_: $type),*) -> Result<$what, Other> {
            Err(Other)
        }
    )+ };
}

type Never = Impossible<(), Other>;
type Name = &'static str;

impl<'a> Serializer for Plain<'a> {
    type Ok = ();
    type Error = Other;
    type SerializeSeq = Listed<'a>;
    type SerializeTuple = Never;
    type SerializeTupleStruct = Never;
    type SerializeTupleVariant = Never;
    type SerializeMap = Never;
    type SerializeStruct = Listed<'a>;
    type SerializeStructVariant = Never;

    unsigned! { serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64) }

    others! {
        serialize_i8(i8) -> ();
        serialize_i16(i16) -> ();
        serialize_i32(i32) -> ();
        serialize_i64(i64) -> ();
        serialize_f32(f32) -> ();
        serialize_f64(f64) -> ();
        serialize_char(char) -> ();
        serialize_bytes(&[u8]) -> ();
        serialize_unit() -> ();
        serialize_unit_struct(Name) -> ();
        serialize_unit_variant(Name, u32, Name) -> ();
        serialize_tuple(usize) -> Never;
        serialize_tuple_struct(Name, usize) -> Never;
        serialize_tuple_variant(Name, u32, Name, usize) -> Never;
        serialize_map(Option<usize>) -> Never;
        serialize_struct_variant(Name, u32, Name, usize) -> Never;
    }

    fn serialize_bool(self, value: bool) -> Result<(), Other> {
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Result<(), Other> {
        quoted(value, self.out)
    }

    fn serialize_none(self) -> Result<(), Other> {
        self.out.extend_from_slice(b"null");
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Other> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: Name,
        value: &T,
    ) -> Result<(), Other> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: Name,
        _: u32,
        _: Name,
        _: &T,
    ) -> Result<(), Other> {
        Err(Other)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Listed<'a>, Other> {
        Ok(Listed { out: self.out, before: b'[' })
    }

    fn serialize_struct(self, _: Name, _: usize) -> Result<Listed<'a>, Other> {
        Ok(Listed { out: self.out, before: b'{' })
    }
}

/// A list or an object, being written.
struct Listed<'a> {
    out: &'a mut Vec<u8>,
    /// What comes before the next.
    before: u8,
}

impl Listed<'_> {
    fn next(&mut self) {
        self.out.push(std::mem::replace(&mut self.before, b','));
    }

    fn close(mut self, opening: u8, closing: u8) {
        if self.before == opening {
            self.next();
        }
        self.out.push(closing);
    }
}

impl SerializeSeq for Listed<'_> {
    type Ok = ();
    type Error = Other;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Other> {
        self.next();
        value.serialize(Plain { out: self.out })
    }

    fn end(self) -> Result<(), Other> {
        self.close(b'[', b']');
        Ok(())
    }
}

impl SerializeStruct for Listed<'_> {
    type Ok = ();
    type Error = Other;

    /// The key is a field of a struct: a word without anything to escape.
    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: Name,
        value: &T,
    ) -> Result<(), Other> {
        self.next();
        self.out.reserve(key.len() + 24);
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        value.serialize(Plain { out: self.out })
    }

    fn end(self) -> Result<(), Other> {
        self.close(b'{', b'}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Sample {
        list: Vec<u64>,
        none: Option<u8>,
        some: Option<&'static str>,
        yes: bool,
        inner: Empty,
    }

    #[derive(Serialize)]
    struct Empty {}

    #[test]
    fn it_writes_what_the_other_does() {
        for some in [
            "",
            "plain",
            "two\nlines",
            "\"quoted\"",
            "back\\slash",
            "\u{7f}\u{fffd}é",
            "\u{202e}",
            "\0",
        ] {
            for list in [vec![], vec![0], vec![9, 10, 99, 100, u64::MAX]] {
                let sample =
                    Sample { list, none: None, some: Some(some), yes: true, inner: Empty {} };
                let mut out = Vec::new();
                assert!(write(&sample, &mut out));
                assert_eq!(String::from_utf8(out).unwrap(), json::to_string(&sample));
            }
        }
        assert!(!write(&1.5_f64, &mut Vec::new()));
    }
}
