//! A collector of problems: ADD reports the first one, `validate` and `plan` report all of them.

/// Problems, in the order in which they were found.
///
/// A function that checks something takes a collector, and continues after each problem. Its caller decides what to do:
/// [`Self::or_first`] returns the first problem, iteration shows all.
#[derive(Debug)]
pub struct Problems<E>(Vec<E>);

impl<E> Problems<E> {
    /// A collector without problems.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a problem.
    pub fn push(&mut self, problem: impl Into<E>) {
        self.0.push(problem.into());
    }

    /// The value of a step. If the step failed, its error is added to the problems.
    pub fn record<T>(&mut self, outcome: Result<T, impl Into<E>>) -> Option<T> {
        outcome.map_err(|error| self.push(error)).ok()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The value, if nothing is wrong.
    ///
    /// # Errors
    /// The first problem.
    pub fn or_first<T>(self, value: T) -> Result<T, E> {
        self.0.into_iter().next().map_or(Ok(value), Err)
    }

    /// The problems, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, E> {
        self.0.iter()
    }
}

impl<E> Default for Problems<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> Extend<E> for Problems<E> {
    fn extend<I: IntoIterator<Item = E>>(&mut self, problems: I) {
        self.0.extend(problems);
    }
}

impl<E> IntoIterator for Problems<E> {
    type Item = E;
    type IntoIter = std::vec::IntoIter<E>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, E> IntoIterator for &'a Problems<E> {
    type Item = &'a E;
    type IntoIter = std::slice::Iter<'a, E>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_problem_stops_and_all_are_kept() {
        let mut problems = Problems::<String>::new();
        assert_eq!(problems.record(Ok::<_, String>(1)), Some(1));
        assert_eq!(problems.record(Err::<(), _>("a")), None);
        problems.push("b");
        assert_eq!(problems.iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(problems.or_first(()), Err("a".into()));
        assert_eq!(Problems::<String>::new().or_first(5), Ok(5));
    }
}
