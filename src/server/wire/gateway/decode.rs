//! JSON to messages by the rules of Go's protojson, as grpc-gateway sets it: unknown fields and unknown names of
//! enumerations are ignored, a field may come once, in either spelling, numbers may be texts, and `null` is no
//! value.
//!
//! `serde_json` reads the syntax; here is what it means for a message.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost_reflect::{Cardinality, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Digits of an integer, beyond which it has no place in 64 bits.
const INTEGER_DIGITS_MAX: i64 = 20;

/// Reads a message of this type.
pub struct MessageSeed<'a>(pub &'a MessageDescriptor);

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = DynamicMessage;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<DynamicMessage, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_> {
    type Value = DynamicMessage;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object for {}", self.0.full_name())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<DynamicMessage, A::Error> {
        let mut message = DynamicMessage::new(self.0.clone());
        let (mut fields, mut oneofs) = (BTreeSet::new(), BTreeSet::new());
        while let Some(name) = map.next_key::<String>()? {
            let field = self.0.get_field_by_json_name(&name);
            let Some(field) = field.or_else(|| self.0.get_field_by_name(&name)) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if !fields.insert(field.number()) {
                return Err(A::Error::custom(format_args!("duplicate field {name:?}")));
            }
            let Some(value) = map.next_value_seed(FieldSeed(&field))? else {
                continue;
            };
            if let Some(oneof) = field.containing_oneof()
                && !oneofs.insert(oneof.full_name().to_owned())
            {
                let oneof = oneof.full_name();
                return Err(A::Error::custom(format_args!(
                    "error parsing {name:?}, oneof {oneof} is already set"
                )));
            }
            message.set_field(&field, value);
        }
        Ok(message)
    }
}

/// Reads the value of a field; `None`: the field stays unset.
struct FieldSeed<'a>(&'a FieldDescriptor);

impl<'de> DeserializeSeed<'de> for FieldSeed<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Value>, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for FieldSeed<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value for {}", self.0.json_name())
    }

    fn visit_unit<E: Error>(self) -> Result<Option<Value>, E> {
        Ok(None)
    }

    fn visit_none<E: Error>(self) -> Result<Option<Value>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Value>, D::Error> {
        match self.0.cardinality() {
            Cardinality::Repeated => deserializer.deserialize_seq(ListSeed(self.0)).map(Some),
            _ => ElementSeed(self.0).deserialize(deserializer),
        }
    }
}

/// Reads a repeated field.
struct ListSeed<'a>(&'a FieldDescriptor);

impl<'de> Visitor<'de> for ListSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array for {}", self.0.json_name())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = seq.next_element_seed(ElementSeed(self.0))? {
            list.extend(element);
        }
        Ok(Value::List(list))
    }
}

/// Reads one value of a field's type.
struct ElementSeed<'a>(&'a FieldDescriptor);

impl<'de> DeserializeSeed<'de> for ElementSeed<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Value>, D::Error> {
        if let Kind::Message(kind) = self.0.kind() {
            let message = MessageSeed(&kind).deserialize(deserializer)?;
            return Ok(Some(Value::Message(message)));
        }
        let text = <&RawValue as serde::Deserialize>::deserialize(deserializer)?.get();
        let string = serde_json::from_str::<String>(text).ok();
        scalar(&self.0.kind(), text, string).ok_or_else(|| {
            let name = self.0.json_name();
            D::Error::custom(format_args!("invalid value for field {name}: {text}"))
        })
    }
}

/// A value of a type that is no message. `string`: what `text` says, if it is a JSON string. The outer `None`: it
/// is not a value of that type; the inner: it stands for none.
fn scalar(kind: &Kind, text: &str, string: Option<String>) -> Option<Option<Value>> {
    let integer = || integer(string.as_deref().unwrap_or(text));
    let value = match kind {
        Kind::Bool => Value::Bool(text.parse().ok()?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(integer()?.try_into().ok()?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(integer()?.try_into().ok()?),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(integer()?.try_into().ok()?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(integer()?.try_into().ok()?),
        Kind::String => Value::String(string?),
        Kind::Bytes => Value::Bytes(bytes(&string?)?.into()),
        Kind::Enum(kind) => match string {
            Some(name) => {
                return Some(
                    kind.get_value_by_name(&name)
                        .map(|value| Value::EnumNumber(value.number())),
                );
            }
            None => Value::EnumNumber(integer()?.try_into().ok()?),
        },
        // No request has one.
        Kind::Double | Kind::Float | Kind::Message(_) => return None,
    };
    Some(Some(value))
}

/// The whole number that a JSON number is, however it is written: `1e2` and `1.0` are.
fn integer(text: &str) -> Option<i128> {
    // Its syntax; what it says is taken from the text, which is exact.
    serde_json::from_str::<&RawValue>(text)
        .ok()
        .filter(|raw| raw.get() == text)?;
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (mantissa, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return digits_only(whole).then_some(0);
    }
    let shift = exponent.parse::<i32>().ok().map(i64::from)? - i64::try_from(fraction.len()).ok()?;
    let significant = digits.trim_end_matches('0');
    let zeros = i64::try_from(digits.len() - significant.len()).ok()? + shift;
    if zeros < 0 || i64::try_from(significant.len()).ok()? + zeros > INTEGER_DIGITS_MAX {
        return None;
    }
    let zeros = 10_i128.checked_pow(u32::try_from(zeros).ok()?)?;
    Some(sign * significant.parse::<i128>().ok()? * zeros)
}

fn digits_only(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Base64 of either alphabet, with padding or without.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let text = text.replace(['\r', '\n'], "");
    let alphabet = match text.contains(['-', '_']) {
        true => alphabet::URL_SAFE,
        false => alphabet::STANDARD,
    };
    let padding = match text.len() % 4 {
        0 => DecodePaddingMode::RequireCanonical,
        _ => DecodePaddingMode::RequireNone,
    };
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(padding);
    GeneralPurpose::new(&alphabet, config).decode(text).ok()
}

#[cfg(test)]
mod tests;
