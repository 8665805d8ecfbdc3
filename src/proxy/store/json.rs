//! Reads structs from JSON. By hand: the code that serde derives for a large one is ten times as
//! large.

use serde_json::Value;

/// The most items of a list: more than a DHCP message has room for.
const MAX_ITEMS: usize = 1024;

/// The fields of a struct with their names. A missing one is a compile error.
macro_rules! fields {
    ($of:expr => $type:ident { $($field:ident),+ $(,)? } $(and $other:ident)?) => {{
        let $type { $($field,)+ $($other: _)? } = $of;
        [$((stringify!($field), $field as &mut dyn $crate::proxy::store::json::Field)),+]
    }};
}

pub(super) use fields;

/// Reads the fields that an object has. `None` if one has another type, or it is no object.
pub(super) fn read_fields(object: &Value, fields: &mut [(&str, &mut dyn Field)]) -> Option<()> {
    let object = object.as_object()?;
    fields.iter_mut().try_for_each(|(name, field)| {
        object
            .get(*name)
            .map_or(Some(()), |value| field.read(value))
    })
}

/// A value that is read from JSON. A trait object, so that one loop reads fields of all types.
pub(super) trait Field {
    /// Returns `None` if the value has another type.
    fn read(&mut self, value: &Value) -> Option<()>;
}

impl Field for bool {
    fn read(&mut self, value: &Value) -> Option<()> {
        value.as_bool().map(|value| *self = value)
    }
}

impl Field for u32 {
    fn read(&mut self, value: &Value) -> Option<()> {
        value
            .as_u64()
            .and_then(|value| value.try_into().ok())
            .map(|value| *self = value)
    }
}

impl Field for u64 {
    fn read(&mut self, value: &Value) -> Option<()> {
        value.as_u64().map(|value| *self = value)
    }
}

impl Field for String {
    fn read(&mut self, value: &Value) -> Option<()> {
        value.as_str().map(|value| *self = value.to_owned())
    }
}

impl<T: Field + Default> Field for Option<T> {
    fn read(&mut self, value: &Value) -> Option<()> {
        if value.is_null() {
            Some(())
        } else {
            self.insert(T::default()).read(value)
        }
    }
}

impl<T: Field + Default> Field for Vec<T> {
    fn read(&mut self, value: &Value) -> Option<()> {
        let values = value
            .as_array()
            .filter(|values| values.len() <= MAX_ITEMS)?
            .iter();
        *self = values
            .map(|value| {
                let mut item = T::default();
                item.read(value).map(|()| item)
            })
            .collect::<Option<_>>()?;
        Some(())
    }
}

/// Pairs of hexadecimal digits.
impl Field for Vec<u8> {
    fn read(&mut self, value: &Value) -> Option<()> {
        value.as_str()?.as_bytes().chunks(2).try_for_each(|pair| {
            let digits = str::from_utf8(pair)
                .ok()
                .filter(|digits| digits.len() == 2 && !digits.contains('+'))?;
            self.push(u8::from_str_radix(digits, 16).ok()?);
            Some(())
        })
    }
}
