//! Figures, their limits, and the table with both.

use serde_json::{Value, json};

/// One figure and its limit, measured alternately several times.
pub struct Line {
    pub name: String,
    pub what: String,
    pub unit: &'static str,
    pub figures: Vec<f64>,
    /// A description of the limit, and its measurements in the same unit.
    pub limit: Option<(String, Vec<f64>)>,
    pub target: Option<Target>,
}

/// The target for a figure.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// The figure is at least this fraction of its limit.
    Share(f64),
    /// The figure is at most this multiple of its limit.
    Times(f64),
    /// The figure itself is at least this.
    AtLeast(f64),
    /// The figure itself is at most this.
    AtMost(f64),
}

impl Line {
    fn ratio(&self) -> Option<f64> {
        self.limit.as_ref().map(|(_, limits)| median(&self.figures) / median(limits))
    }

    fn is_met(&self) -> Option<bool> {
        let (figure, ratio) = (median(&self.figures), self.ratio());
        Some(match self.target? {
            Target::Share(least) => ratio? >= least,
            Target::Times(most) => ratio? <= most,
            Target::AtLeast(least) => figure >= least,
            Target::AtMost(most) => figure <= most,
        })
    }

    fn told(&self) -> [String; 8] {
        let (least, most) = range(&self.figures);
        let (limit, limit_figure) = match &self.limit {
            Some((what, limits)) => (what.clone(), shown(median(limits), self.unit)),
            None => (String::new(), String::new()),
        };
        let target = self.target.map_or(String::new(), |target| match target {
            Target::Share(least) => format!("≥ {least}"),
            Target::Times(most) => format!("≤ {most}"),
            Target::AtLeast(least) => format!("≥ {}", shown(least, self.unit)),
            Target::AtMost(most) => format!("≤ {}", shown(most, self.unit)),
        });
        let met = match self.is_met() {
            Some(true) => " ✓",
            Some(false) => " ✗",
            None => "",
        };
        [
            format!("`{}`", self.name),
            self.what.clone(),
            shown(median(&self.figures), self.unit),
            format!("{} – {}", shown(least, self.unit), shown(most, self.unit)),
            limit,
            limit_figure,
            self.ratio().map_or(String::new(), |ratio| format!("{ratio:.2}")),
            target + met,
        ]
    }

    fn json(&self) -> Value {
        let (least, most) = range(&self.figures);
        json!({
            "name": self.name, "what": self.what, "unit": self.unit, "runs": self.figures,
            "median": median(&self.figures), "least": least, "most": most,
            "limit": self.limit.as_ref().map(|(what, runs)| json!({ "what": what, "runs": runs, "median": median(runs) })),
            "ratio": self.ratio(), "met": self.is_met(),
        })
    }
}

/// Prints the lines as a table.
pub fn table(lines: &[Line]) {
    let head = ["name", "figure", "median", "range", "limit", "median", "ratio", "target"].map(str::to_owned);
    let rows: Vec<[String; 8]> = std::iter::once(head).chain(lines.iter().map(Line::told)).collect();
    let widths: Vec<usize> =
        (0..8).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap()).collect();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("| {} |", cells.join(" | "));
        if number == 0 {
            println!("|{}|", widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>().join("|"));
        }
    }
}

/// Prints the figures at ten times the size, and the exponent of the cost: 0 means constant, 1 means linear.
pub fn growth(lines: &[Line], tenfold: &[Line]) {
    println!("\n| name | figure | median | at ten times the size | exponent |\n|---|---|---|---|---|");
    for (line, large) in lines.iter().zip(tenfold) {
        let (before, after) = (median(&line.figures), median(&large.figures));
        // A higher cost means a lower rate.
        let exponent = if line.unit.ends_with("/s") { (before / after).log10() } else { (after / before).log10() };
        // Zero has no exponent.
        let exponent = if exponent.is_finite() { format!("{exponent:.2}") } else { String::new() };
        let (name, what, unit) = (&line.name, &line.what, line.unit);
        println!("| `{name}` | {what} | {} | {} | {exponent} |", shown(before, unit), shown(after, unit));
    }
}

/// Prints the lines as JSON.
pub fn print_json(lines: &[Line]) {
    println!("{:#}", Value::from(lines.iter().map(Line::json).collect::<Vec<_>>()));
}

pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn range(figures: &[f64]) -> (f64, f64) {
    figures.iter().fold((f64::INFINITY, 0.0), |(least, most), figure| (figure.min(least), figure.max(most)))
}

/// A figure with three significant digits, and its unit.
fn shown(figure: f64, unit: &str) -> String {
    let (figure, prefix) = match figure {
        large if large >= 1e6 => (large / 1e6, " M"),
        large if large >= 1e4 => (large / 1e3, " k"),
        small => (small, " "),
    };
    let digits = if figure >= 100.0 {
        0
    } else if figure >= 10.0 {
        1
    } else {
        2
    };
    format!("{figure:.digits$}{prefix}{unit}")
}
