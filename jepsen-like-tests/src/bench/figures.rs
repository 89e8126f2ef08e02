//! Numbers for people: quantiles, medians, rounding. Pure.

use serde_json::{Value, json};

/// Half of them are at most this, and nearly all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantiles {
    /// Half of them are at most this.
    pub p50: f64,
    /// All but one in a hundred are at most this.
    pub p99: f64,
    /// The greatest.
    pub max: f64,
}

impl Quantiles {
    /// The smallest value that this part of all is not greater than; zeros for no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Quantiles {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |quantile: f64| {
            let rank = (quantile * values.len() as f64).ceil() as usize;
            values
                .get(rank.saturating_sub(1))
                .copied()
                .unwrap_or_default()
        };
        Quantiles {
            p50: at(0.5),
            p99: at(0.99),
            max: at(1.0),
        }
    }

    /// The median of each over several rounds.
    pub fn medians<'a>(rounds: impl IntoIterator<Item = &'a Quantiles>) -> Quantiles {
        let rounds: Vec<&Quantiles> = rounds.into_iter().collect();
        let of = |field: fn(&Quantiles) -> f64| median(rounds.iter().map(|one| field(one)));
        Quantiles {
            p50: of(|one| one.p50),
            p99: of(|one| one.p99),
            max: of(|one| one.max),
        }
    }

    /// As milliseconds.
    pub fn json(&self) -> Value {
        json!({"p50_ms": round(self.p50), "p99_ms": round(self.p99), "max_ms": round(self.max)})
    }
}

/// The middle one; between the two middle ones where there are two; zero for none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// To a thousandth.
pub fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// As milliseconds.
pub fn ms(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// As KiB.
pub fn kib(bytes: f64) -> f64 {
    bytes / 1_024.0
}

/// The line under which figures stand: a value of the environment as a word.
pub fn word(environment: &Value, name: &str) -> String {
    environment[name]
        .as_str()
        .map_or_else(|| environment[name].to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_medians() {
        let hundred = Quantiles::of((1..=100).rev().map(f64::from));
        assert_eq!((hundred.p50, hundred.p99, hundred.max), (50.0, 99.0, 100.0));
        let few = Quantiles::of([3.0, 1.0, 2.0]);
        assert_eq!((few.p50, few.p99, few.max), (2.0, 3.0, 3.0));
        assert_eq!(Quantiles::of([]).p99, 0.0);
        assert_eq!(Quantiles::medians(&[hundred, few, few]), few);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median([]), 0.0);
        assert_eq!(round(1.23456), 1.235);
    }
}
