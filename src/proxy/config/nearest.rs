//! The word that was probably meant.

/// Returns the one of `known` that was probably meant by `word`, by edit distance; an abbreviation
/// of three letters or more counts as well.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    let is_near = |(distance, name): &(usize, &str)| {
        *distance <= name.len().div_ceil(3) || (word.len() >= 3 && name.starts_with(&word))
    };
    let distances = known.into_iter().map(|name| (distance(&word, name), name));
    distances.filter(is_near).min().map(|(_, name)| name)
}

/// Returns the least number of letters to insert, remove or replace (Levenshtein).
pub(super) fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (number, letter) in from.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], number + 1);
        for (place, other) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(letter != other);
            diagonal = row[place + 1];
            row[place + 1] = replaced.min(diagonal + 1).min(row[place] + 1);
        }
    }
    row[to.len()]
}
