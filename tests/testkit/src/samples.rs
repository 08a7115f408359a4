//! The samples of one scrape of `/metrics`.

use std::collections::BTreeMap;

/// The value of each sample, by its name and labels in the exposition format.
pub struct Samples(BTreeMap<String, f64>);

impl Samples {
    pub fn read(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().expect("a number"))
        });
        Self(samples.collect())
    }

    /// The value of a sample. `name` includes the labels, in alphabetical order.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// The sum of the samples with this name and all of these labels, for example `peer="node-1"`.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let of_name = self.0.iter().filter(|(sample, _)| sample.split('{').next() == Some(name));
        of_name.filter(|(sample, _)| labels.iter().all(|label| sample.contains(label))).map(|(_, value)| value).sum()
    }

    pub fn any(&self, part: &str) -> bool {
        self.0.keys().any(|sample| sample.contains(part))
    }
}
