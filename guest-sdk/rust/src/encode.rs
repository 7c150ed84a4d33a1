//! Values as JSON, and nothing but what comes back as it was: `serde_json` writes a number that is
//! not finite as `null`, a whole number of more than 64 bits as digits that it does not read again,
//! and values that are nested deeper than it reads.

use serde::ser::{self, Serialize};
use std::fmt::{self, Display};

/// How deep arrays and objects may lie in each other: what `serde_json` reads.
const DEPTH_MAX: u8 = 127;

/// The JSON of `value`.
///
/// # Errors
/// When `value` has no form in JSON, or one that would be read as something else.
pub(crate) fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    value.serialize(Check { depth: 0 }).map_err(|NotExact(why)| ser::Error::custom(why))?;
    serde_json::to_vec(value)
}

/// Why a value does not come back as it was.
#[derive(Debug)]
struct NotExact(String);

impl Display for NotExact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for NotExact {}
impl ser::Error for NotExact {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// A serializer that writes nothing.
#[derive(Clone, Copy)]
struct Check {
    depth: u8,
}

type Checked = Result<(), NotExact>;

impl Check {
    fn deeper(self) -> Result<Self, NotExact> {
        if self.depth == DEPTH_MAX {
            return Err(NotExact(format!("it is nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

fn check_float(number: f64) -> Checked {
    match number.is_finite() {
        true => Ok(()),
        false => Err(NotExact(format!("{number} is no number of JSON"))),
    }
}

fn too_large(number: impl Display) -> NotExact {
    NotExact(format!("{number} has more than 64 bits: store it as a string"))
}

macro_rules! fine {
    ($($name:ident: $type:ty),* $(,)?) => {
        $(fn $name(self, _: $type) -> Checked {
            Ok(())
        })*
    };
}

impl ser::Serializer for Check {
    type Ok = ();
    type Error = NotExact;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    fine! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32,
        serialize_i64: i64, serialize_u8: u8, serialize_u16: u16, serialize_u32: u32,
        serialize_u64: u64, serialize_char: char, serialize_str: &str, serialize_bytes: &[u8],
        serialize_unit_struct: &'static str,
    }

    fn serialize_i128(self, number: i128) -> Checked {
        let fits = i64::try_from(number).is_ok() || u64::try_from(number).is_ok();
        if fits { Ok(()) } else { Err(too_large(number)) }
    }
    fn serialize_u128(self, number: u128) -> Checked {
        u64::try_from(number).map(drop).map_err(|_| too_large(number))
    }
    fn serialize_f32(self, number: f32) -> Checked {
        check_float(number.into())
    }
    fn serialize_f64(self, number: f64) -> Checked {
        check_float(number)
    }
    fn serialize_none(self) -> Checked {
        Ok(())
    }
    fn serialize_unit(self) -> Checked {
        Ok(())
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Checked {
        value.serialize(self)
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Checked {
        Ok(())
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, v: &T) -> Checked {
        v.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Checked {
        value.serialize(self.deeper()?)
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Self, NotExact> {
        self.deeper()
    }
    fn serialize_tuple(self, _: usize) -> Result<Self, NotExact> {
        self.deeper()
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, NotExact> {
        self.deeper()
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, NotExact> {
        self.deeper()?.deeper()
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self, NotExact> {
        self.deeper()
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, NotExact> {
        self.deeper()
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, NotExact> {
        self.deeper()?.deeper()
    }
    fn collect_str<T: Display + ?Sized>(self, _: &T) -> Checked {
        Ok(())
    }
}

macro_rules! elements {
    ($($trait:ident $method:ident),* $(,)?) => {
        $(impl ser::$trait for Check {
            type Ok = ();
            type Error = NotExact;
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Checked {
                value.serialize(*self)
            }
            fn end(self) -> Checked {
                Ok(())
            }
        })*
    };
}
elements! {
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field,
}

macro_rules! fields {
    ($($trait:ident),*) => {
        $(impl ser::$trait for Check {
            type Ok = ();
            type Error = NotExact;
            fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, v: &T) -> Checked {
                v.serialize(*self)
            }
            fn end(self) -> Checked {
                Ok(())
            }
        })*
    };
}
fields!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for Check {
    type Ok = ();
    type Error = NotExact;
    /// `serde_json` itself refuses what is no key.
    fn serialize_key<T: Serialize + ?Sized>(&mut self, _: &T) -> Checked {
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Checked {
        value.serialize(*self)
    }
    fn end(self) -> Checked {
        Ok(())
    }
}
