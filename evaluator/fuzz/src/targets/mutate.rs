//! Inputs out of other inputs: what an accident or an enemy would make of them.
//!
//! What must hold: a pure function of its arguments, chance included, so that a run can be done
//! again. Bytes are flipped, set, cut, doubled, spliced with another input's, and what may be a
//! length is made huge; JSON is changed as a tree.

use serde_json::{Map, Value, json};

use super::Form;

/// Chance from a number (SplitMix64).
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below another one; 0 when that is 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % (end.max(1) as u64)) as usize
    }

    pub(crate) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// Makes an input: chance alone, or a seed that was changed up to five times.
pub(crate) fn input(form: Form, seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    if rng.one_in(10) {
        let len = rng.below(200);
        return rng.bytes(len);
    }
    // A long seed costs more, so it comes less often.
    let (mut input, again) = (rng.pick(seeds), rng.pick(seeds));
    if input.len() > again.len() && !rng.one_in(1 + input.len() / 256) {
        input = again;
    }
    let mut input = input.clone();
    for _ in 0..rng.below(6) {
        let other: &Vec<u8> = rng.pick(seeds);
        input = changed(form, &input, other, rng);
    }
    input
}

/// Changes an input once. `other` lends parts.
pub(crate) fn changed(form: Form, input: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    let steered = match form {
        Form::Json => 0,
        Form::Bytes(steered) => steered,
    };
    if form == Form::Json
        && !rng.one_in(4)
        && let Ok(mut value) = serde_json::from_slice::<Value>(input)
    {
        let other = serde_json::from_slice(other).unwrap_or(Value::Null);
        change_tree(&mut value, &other, rng);
        return value.to_string().into_bytes();
    }
    let mut changed = input.to_vec();
    change_bytes(&mut changed, other, steered, rng);
    changed
}

fn change_bytes(input: &mut Vec<u8>, other: &[u8], steered: usize, rng: &mut Rng) {
    let at = rng.below(input.len());
    let len = rng.below(input.len() - at).min(1 << rng.below(7));
    match rng.below(16) {
        0..=4 if !input.is_empty() => input[at] ^= 1 << rng.below(8),
        5..=7 if !input.is_empty() => input[at] = *rng.pick(&[0, 1, 2, 0x20, 0x7f, 0x80, 0xff]),
        8 => input.truncate(at),
        9 => drop(input.drain(at..at + len)),
        10 => {
            let part = input[at..at + len].to_vec();
            let to = rng.below(input.len());
            input.splice(to..to, part);
        }
        11 => {
            let from = rng.below(other.len());
            let part = &other[from..other.len().min(from + 1 + (1 << rng.below(10)))];
            input.splice(at..at + len, part.iter().copied());
        }
        12 => {
            let len = rng.below(9);
            let part = rng.bytes(len);
            input.splice(at..at, part);
        }
        _ => set_length(input, steered, rng),
    }
}

/// Sets what looks like a length field, a small number in 4 or 8 bytes, to another number.
fn set_length(input: &mut [u8], steered: usize, rng: &mut Rng) {
    let wide = rng.one_in(2);
    let size = if wide { 8 } else { 4 };
    let number = |bytes: &[u8]| {
        let mut field = [0; 8];
        field[..size].copy_from_slice(bytes);
        u64::from_le_bytes(field)
    };
    let places: Vec<usize> = (steered..input.len().saturating_sub(size))
        .filter(|at| number(&input[*at..*at + size]) < 1 << 12)
        .collect();
    if places.is_empty() {
        return;
    }
    let at = *rng.pick(&places);
    let found = number(&input[at..at + size]);
    let set = match rng.below(8) {
        0 => found.wrapping_add(1),
        1 => found.wrapping_sub(1),
        2 => 0,
        3 => 1 << rng.below(64),
        4 => u64::MAX >> rng.below(40),
        5 => input.len() as u64,
        6 => 1 << 20,
        _ => rng.next(),
    };
    input[at..at + size].copy_from_slice(&set.to_le_bytes()[..size]);
}

fn change_tree(value: &mut Value, other: &Value, rng: &mut Rng) {
    let at = rng.below(count(value));
    let from = rng.below(count(other));
    let lent = nth(other, &mut { from }).cloned().unwrap_or_default();
    if let Some(place) = nth_mut(value, &mut { at }) {
        change_node(place, lent, rng);
    }
}

fn change_node(place: &mut Value, lent: Value, rng: &mut Rng) {
    match rng.below(8) {
        0 => *place = lent,
        1 => *place = odd(rng),
        2 => *place = json!([place.take()]),
        _ => match place {
            Value::Object(fields) => change_fields(fields, lent, rng),
            Value::Array(items) if items.is_empty() => items.push(lent),
            Value::Array(items) => change_items(items, lent, rng),
            Value::String(text) => change_text(text, rng),
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or_default();
                let numbers = [number + 1.0, -number, number * 1e15, number / 3.0, 0.0];
                *place = json!(rng.pick(&numbers));
            }
            Value::Bool(set) => *set = !*set,
            Value::Null => *place = lent,
        },
    }
}

fn change_fields(fields: &mut Map<String, Value>, lent: Value, rng: &mut Rng) {
    let names: Vec<String> = fields.keys().cloned().collect();
    let Some(name) = names.get(rng.below(names.len())) else {
        return drop(fields.insert("x".to_owned(), lent));
    };
    match rng.below(4) {
        0 => drop(fields.remove(name)),
        1 => drop(fields.insert(name.clone(), odd(rng))),
        2 => drop(fields.insert(name.clone(), lent)),
        _ => {
            let mut renamed = name.clone();
            change_text(&mut renamed, rng);
            let value = fields.remove(name).unwrap_or_default();
            fields.insert(renamed, value);
        }
    }
}

fn change_items(items: &mut Vec<Value>, lent: Value, rng: &mut Rng) {
    let at = rng.below(items.len());
    match rng.below(4) {
        0 => drop(items.remove(at)),
        1 => items.push(items[at].clone()),
        2 => items.insert(at, lent),
        _ => items.swap(0, at),
    }
}

fn change_text(text: &mut String, rng: &mut Rng) {
    let mut chars: Vec<char> = text.chars().collect();
    let at = rng.below(chars.len());
    match rng.below(8) {
        0 => chars.clear(),
        1 => chars.push(*rng.pick(&['x', ' ', '/', '~', 'é', '\u{0}', '"'])),
        2 => drop(chars.pop()),
        3 if text.len() < 64 => chars = chars.repeat(1 + rng.below(300)),
        4 => chars.insert(0, *rng.pick(&['v', '0', '-', '(', '\u{10ffff}'])),
        5 => chars = text.to_uppercase().chars().collect(),
        // Mostly of the same kind: another digit may still be a word that is read.
        _ => match chars.get_mut(at) {
            Some(digit) if digit.is_ascii_digit() => {
                *digit = char::from(b'0' + rng.next() as u8 % 10)
            }
            Some(any) if rng.one_in(3) => *any = *rng.pick(&['ß', '€', '𝄞']),
            Some(any) => *any = char::from(b' ' + rng.next() as u8 % 95),
            None => chars.push('x'),
        },
    }
    *text = chars.into_iter().collect();
}

fn odd(rng: &mut Rng) -> Value {
    let odd = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1e300),
        json!(u64::MAX),
        json!(1_u64 << 53),
        json!(2_147_483_647),
        json!(""),
        json!("on"),
        json!([]),
        json!({}),
        json!({"variant": "on"}),
        json!([[], {}]),
    ];
    rng.pick(&odd).clone()
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    }
}

fn count(value: &Value) -> usize {
    1 + children(value).into_iter().map(count).sum::<usize>()
}

/// The value of a number, counted from the root on.
fn nth<'a>(value: &'a Value, left: &mut usize) -> Option<&'a Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    children(value)
        .into_iter()
        .find_map(|child| nth(child, left))
}

fn nth_mut<'a>(value: &'a mut Value, left: &mut usize) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|child| nth_mut(child, left)),
        Value::Object(fields) => fields.values_mut().find_map(|child| nth_mut(child, left)),
        _ => None,
    }
}
