//! The curves as a picture: one panel each, both axes logarithmic.

use std::fmt::Write as _;

use crate::report::{Curve, Figure};

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 280.0;
const MARGIN: f64 = 56.0;
const COLUMNS: usize = 2;
const COLORS: [&str; 5] = ["#888888", "#d1495b", "#edae49", "#00798c", "#30638e"];

/// A logarithmic axis.
struct Axis {
    from: f64,
    to: f64,
}

impl Axis {
    /// From the power of ten below the least value to the one above the greatest.
    fn around(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        let (from, to) = (low.log10().floor(), high.log10().ceil());
        Self { from, to: if to > from { to } else { from + 1.0 } }
    }

    /// Where a value is, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        (value.log10() - self.from) / (self.to - self.from)
    }

    /// The powers of ten on it.
    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (from, to) = (self.from, self.to);
        (0..)
            .map(move |step| from + f64::from(step))
            .take_while(move |power| *power <= to)
            .map(|power| 10_f64.powf(power))
    }
}

/// All curves of ADD in one picture.
pub(crate) fn svg(curves: &[Curve]) -> String {
    let rows = curves.len().div_ceil(COLUMNS);
    let (width, height) = (WIDTH * float(COLUMNS), HEIGHT * float(rows) + 40.0);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, curve) in curves.iter().enumerate() {
        let (x, y) = (float(index % COLUMNS) * WIDTH, float(index / COLUMNS) * HEIGHT);
        let _ = writeln!(text, "<g transform=\"translate({x},{y})\">\n{}</g>", panel(curve));
    }
    for (index, name) in curves.iter().flat_map(|curve| &curve.contenders).take(curves[0].contenders.len()).enumerate()
    {
        let (x, y, color) = (MARGIN + float(index) * 190.0, height - 14.0, COLORS[index % COLORS.len()]);
        let _ = writeln!(text, "<path d=\"M{x} {}h20\" stroke=\"{color}\" stroke-width=\"3\"/>", y - 4.0);
        let _ = writeln!(text, "<text x=\"{}\" y=\"{y}\">{name}</text>", x + 26.0);
    }
    text + "</svg>\n"
}

fn panel(curve: &Curve) -> String {
    // A logarithmic axis has no 0, so 0 is drawn at 1.
    let along = |x: usize| float(x.max(1));
    let xs = Axis::around(curve.points.iter().map(|(x, _)| along(*x)));
    let ys = Axis::around(curve.points.iter().flat_map(|(_, figures)| figures.iter().map(|Figure(verbs)| verbs[0])));
    let (inner_width, inner_height) = (WIDTH - 1.5 * MARGIN, HEIGHT - 1.8 * MARGIN);
    let x_of = |value: f64| MARGIN + xs.place(value) * inner_width;
    let y_of = |value: f64| 0.6 * MARGIN + (1.0 - ys.place(value)) * inner_height;
    let bottom = 0.6 * MARGIN + inner_height;
    let mut text = String::new();
    for tick in xs.ticks() {
        let x = x_of(tick);
        let _ = writeln!(text, "<path d=\"M{x:.1} {:.1}V{bottom:.1}\" stroke=\"#dddddd\"/>", 0.6 * MARGIN);
        let _ = writeln!(text, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick}</text>", bottom + 15.0);
    }
    for tick in ys.ticks() {
        let y = y_of(tick);
        let _ = writeln!(text, "<path d=\"M{MARGIN} {y:.1}H{:.1}\" stroke=\"#dddddd\"/>", MARGIN + inner_width);
        let _ =
            writeln!(text, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tick} ms</text>", MARGIN - 4.0, y + 4.0);
    }
    let _ = writeln!(
        text,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-weight=\"bold\">ADD by {}</text>",
        MARGIN + inner_width / 2.0,
        0.4 * MARGIN,
        curve.axis
    );
    for contender in 0..curve.contenders.len() {
        let color = COLORS[contender % COLORS.len()];
        let places = curve.points.iter().map(|(x, figures)| (x_of(along(*x)), y_of(figures[contender].0[0])));
        let line: Vec<String> = places.clone().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
            line.join(" ")
        );
        for (x, y) in places {
            let _ = writeln!(text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{color}\"/>");
        }
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "no number here is large")]
fn float(number: usize) -> f64 {
    number as f64
}
