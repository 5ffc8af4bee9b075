//! The pictures, as SVG. Each is drawn twice, for wide and for narrow screens. Colours are marks that the page's style sheet
//! replaces by its own, light or dark; series differ in the shape of their points and the dashes of their lines too.

use super::measure::Row;
use super::pareto::frontier;
use plotters::coord::combinators::WithKeyPoints;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fmt::Display;

/// Text, axes and the frontier.
const INK: RGBColor = RGBColor(1, 1, 1);
/// Lines of the grid.
const GRID: RGBColor = RGBColor(2, 2, 2);
/// The page itself.
const PAPER: RGBColor = RGBColor(3, 3, 3);

/// What a name of T5-Efficient varies. The first has no suffix, the last several.
pub(super) const KINDS: [Kind; 9] = [
    Kind {
        key: "size",
        color: RGBColor(4, 4, 4),
        points: &[(-5, -5), (5, -5), (5, 5), (-5, 5)],
        is_filled: true,
        dash: None,
    },
    Kind {
        key: "nl",
        color: RGBColor(5, 5, 5),
        points: &[(-4, 0), (-2, -4), (2, -4), (4, 0), (2, 4), (-2, 4)],
        is_filled: true,
        dash: Some((8, 0)),
    },
    Kind {
        key: "el",
        color: RGBColor(6, 6, 6),
        points: &[(0, -5), (5, 4), (-5, 4)],
        is_filled: true,
        dash: Some((8, 3)),
    },
    Kind {
        key: "dl",
        color: RGBColor(7, 7, 7),
        points: &[(0, 5), (5, -4), (-5, -4)],
        is_filled: true,
        dash: Some((3, 3)),
    },
    Kind {
        key: "dm",
        color: RGBColor(8, 8, 8),
        points: &[(-4, -4), (4, -4), (4, 4), (-4, 4), (-4, -4)],
        is_filled: false,
        dash: Some((14, 4)),
    },
    Kind {
        key: "ff",
        color: RGBColor(9, 9, 9),
        points: &[(0, -6), (5, 0), (0, 6), (-5, 0), (0, -6)],
        is_filled: false,
        dash: Some((2, 6)),
    },
    Kind {
        key: "kv",
        color: RGBColor(10, 10, 10),
        points: &[(-4, -4), (4, 4), (0, 0), (4, -4), (-4, 4)],
        is_filled: false,
        dash: Some((5, 7)),
    },
    Kind {
        key: "nh",
        color: RGBColor(11, 11, 11),
        points: &[(0, -5), (0, 5), (0, 0), (-5, 0), (5, 0)],
        is_filled: false,
        dash: Some((1, 3)),
    },
    Kind {
        key: "several",
        color: RGBColor(12, 12, 12),
        points: &[(0, -5), (5, 4), (-5, 4), (0, -5)],
        is_filled: false,
        dash: None,
    },
];

/// How a kind of variation looks.
pub(super) struct Kind {
    pub(super) key: &'static str,
    color: RGBColor,
    /// Pixels around the point.
    points: &'static [(i32, i32)],
    is_filled: bool,
    /// Pixels of a dash and of the gap behind it, where the kind has lines.
    dash: Option<(i32, i32)>,
}

/// Layers, attention, head, rest.
const PARTS: [RGBColor; 4] = [RGBColor(5, 5, 5), RGBColor(6, 6, 6), RGBColor(8, 8, 8), RGBColor(2, 2, 2)];

/// A picture for each width of screens.
pub(super) struct Picture {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) text: String,
    pub(super) wide: String,
    pub(super) narrow: String,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), String>;

impl Picture {
    fn new(
        (id, title): (&'static str, &'static str),
        text: String,
        heights: [u32; 2],
        draw: impl Fn(&Area<'_>, bool) -> Drawn,
    ) -> Result<Picture, String> {
        let svg = |width: u32, height: u32, is_narrow: bool| {
            let mut svg = String::new();
            {
                let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
                draw(&area, is_narrow)?;
                area.present().map_err(said)?;
            }
            // For who hears the page instead of seeing it.
            Ok::<_, String>(svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{title}\" "), 1))
        };
        Ok(Picture { id, title, text, wide: svg(960, heights[0], false)?, narrow: svg(360, heights[1], true)? })
    }
}

fn said(error: impl Display) -> String {
    error.to_string()
}

/// What the names begin with whose suffixes say what is varied.
const FAMILY: &str = "t5-efficient-";

/// The kind of a name, the size that it varies, and the number of the suffix.
fn kind(name: &str) -> (&'static Kind, &str, u64) {
    // Other families' names are sizes as they are, and folders' names say nothing.
    let Some(short) = name.strip_prefix(FAMILY) else { return (&KINDS[0], name, 0) };
    let mut parts = short.split('-');
    let size = parts.next().unwrap_or_default();
    let (suffix, more) = (parts.next(), parts.next());
    match (suffix, more) {
        (None, _) => (&KINDS[0], size, 0),
        (Some(suffix), None) => {
            let at = suffix.find(|c: char| c.is_ascii_digit()).unwrap_or(suffix.len());
            let kind = KINDS[1..8].iter().find(|kind| kind.key == &suffix[..at]);
            (kind.unwrap_or(&KINDS[8]), size, suffix[at..].parse().unwrap_or(0))
        }
        _ => (&KINDS[8], size, 0),
    }
}

/// A name without what all have.
pub(super) fn short(name: &str) -> &str {
    name.strip_prefix(FAMILY).unwrap_or(name)
}

/// Parameters over a cost, both on logarithmic scales, with the frontier and the lines of the family.
pub(super) fn scatter(
    (id, title, axis): (&'static str, &'static str, &'static str),
    rows: &[&Row],
    cost: impl Fn(&Row) -> f64,
) -> Result<Picture, String> {
    let points: Vec<(f64, f64)> = rows.iter().map(|row| (cost(row), row.parameters.total as f64)).collect();
    let best = frontier(&points);
    let names: Vec<&str> = best.iter().map(|i| short(&rows[*i].name)).collect();
    let text = format!("On the frontier (no measured shape has more parameters for less): {}.", names.join(", "));
    Picture::new((id, title), text, [540, 400], |area, is_narrow| {
        let (xs, ys) = (range(points.iter().map(|p| p.0)), range(points.iter().map(|p| p.1)));
        let xs = (xs.0 / if is_narrow { 1.6 } else { 1.1 }, xs.1); // names stand left of their points
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(if is_narrow { 20 } else { 40 })
            .x_label_area_size(44)
            .y_label_area_size(if is_narrow { 44 } else { 64 })
            .build_cartesian_2d(scale(xs, is_narrow), scale(ys, false))
            .map_err(said)?;
        mesh!(chart, axis, "parameters", is_narrow);
        // The lines: a size and its variations of one kind, by their number.
        for kind_of_line in &KINDS[1..8] {
            let Some((dash, gap)) = kind_of_line.dash else { continue };
            let mut sizes: Vec<&str> = Vec::new();
            for row in rows {
                let (kind, size, _) = kind(&row.name);
                if kind.key == kind_of_line.key && !sizes.contains(&size) {
                    sizes.push(size);
                }
            }
            for size in sizes {
                let of_line = |row: &Row| {
                    let (kind, of, _) = kind(&row.name);
                    of == size && (kind.key == kind_of_line.key || kind.key == "size")
                };
                let mut line: Vec<(f64, f64)> =
                    (0..rows.len()).filter(|i| of_line(rows[*i])).map(|i| points[i]).collect();
                line.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.total_cmp(&b.0)));
                let style = kind_of_line.color.stroke_width(1);
                if gap == 0 {
                    chart.draw_series(LineSeries::new(line, style)).map_err(said)?;
                } else {
                    chart.draw_series(DashedLineSeries::new(line, dash, gap, style)).map_err(said)?;
                }
            }
        }
        let line = best.iter().map(|i| points[*i]);
        chart.draw_series(LineSeries::new(line, INK.stroke_width(2))).map_err(said)?;
        let plane = chart.plotting_area();
        for (row, point) in rows.iter().zip(&points) {
            marker(plane, *point, kind(&row.name).0)?;
        }
        // Names where there is room: those of the frontier above and left of it, where no line is; on wide screens then the others,
        // below and right of their points.
        let mut taken: Vec<(i32, i32)> = Vec::new();
        let others = (0..rows.len()).filter(|i| !is_narrow && !best.contains(i));
        for (i, is_best) in best.iter().map(|i| (*i, true)).chain(others.map(|i| (i, false))) {
            let name = short(&rows[i].name);
            let width = name.len() as i32 * if is_narrow { 6 } else { 7 };
            let (shift, side, left) = match is_best {
                true => ((-7, -5), Pos::new(HPos::Right, VPos::Bottom), -7 - width),
                false => ((8, 3), Pos::new(HPos::Left, VPos::Top), 8),
            };
            let point = plane.map_coordinate(&points[i]);
            let at = (point.0 + left, point.1 + shift.1);
            if taken.iter().all(|t| (t.0 - at.0).abs() > width.max(60) || (t.1 - at.1).abs() > 14) {
                taken.push(at);
                let label = EmptyElement::at(points[i]) + Text::new(name.to_owned(), shift, font(is_narrow).pos(side));
                plane.draw(&label).map_err(said)?;
            }
        }
        Ok(())
    })
}

/// A mark at a point of a plane.
fn marker<X, Y>(plane: &DrawingArea<SVGBackend<'_>, Cartesian2d<X, Y>>, at: (f64, f64), kind: &Kind) -> Drawn
where
    X: plotters::coord::ranged1d::Ranged<ValueType = f64>,
    Y: plotters::coord::ranged1d::Ranged<ValueType = f64>,
{
    let points = kind.points.to_vec();
    match kind.is_filled {
        true => plane.draw(&(EmptyElement::at(at) + Polygon::new(points, kind.color.filled()))),
        false => plane.draw(&(EmptyElement::at(at) + PathElement::new(points, kind.color.stroke_width(2)))),
    }
    .map_err(said)
}

/// What the marks and the lines mean, once for all scatter plots.
pub(super) fn legend() -> Result<Picture, String> {
    const MEANT: [&str; 9] = [
        "a size",
        "nl: layers of both",
        "el: encoder layers",
        "dl: decoder layers",
        "dm: d_model",
        "ff: d_ff",
        "kv: d_kv",
        "nh: heads",
        "several of them",
    ];
    Picture::new(("legend", "Marks"), String::new(), [56, 124], |area, is_narrow| {
        let columns = if is_narrow { 2 } else { 5 };
        let width = if is_narrow { 176 } else { 188 };
        for (i, (kind, meant)) in KINDS.iter().zip(MEANT).enumerate() {
            let (x, y) = (20 + (i as i32 % columns) * width, 14 + (i as i32 / columns) * 24);
            if let Some((dash, gap)) = kind.dash {
                let line = [(x - 16, y), (x + 16, y)];
                let style = kind.color.stroke_width(1);
                match gap {
                    0 => area.draw(&PathElement::new(line.to_vec(), style)).map_err(said)?,
                    _ => area.draw(&DashedPathElement::new(line, dash, gap, style)).map_err(said)?,
                }
            }
            let points: Vec<(i32, i32)> = kind.points.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
            match kind.is_filled {
                true => area.draw(&Polygon::new(points, kind.color.filled())).map_err(said)?,
                false => area.draw(&PathElement::new(points, kind.color.stroke_width(2))).map_err(said)?,
            }
            area.draw(&Text::new(meant, (x + 22, y - 6), font(is_narrow))).map_err(said)?;
        }
        Ok(())
    })
}

/// Decoder steps and encoders below the machine's roofs.
pub(super) fn roofline(rows: &[&Row]) -> Result<Picture, String> {
    let peak = rows.iter().map(|row| row.roofline.fma_peak).fold(0.0, f64::max);
    let reads = rows.iter().map(|row| row.roofline.read_bandwidth);
    let (slow, fast) = (reads.clone().fold(f64::INFINITY, f64::min), reads.fold(0.0, f64::max));
    let step = |row: &Row| {
        let (flops, r) = (row.roofline.step_flops as f64, &row.roofline);
        (flops / r.step_bytes as f64, flops / row.token_ms.median * 1e3)
    };
    let width = |row: &Row| match &*row.dtype {
        "int8" => 1.0,
        "bf16" | "f16" => 2.0,
        _ => 4.0,
    };
    let encoder = |row: &Row| {
        let flops = row.flops.encoder as f64;
        (flops / (row.parameters.encoder as f64 * width(row)), flops / row.encode_ms.median * 1e3)
    };
    let text = format!(
        "Triangles: a decoder step of one sequence, over the bytes that the engine reads for it (the head's int8 screen among \
         them). Squares: the encoder. The roofs are this machine's: {:.0} GFLOP/s of fused multiply-adds in f32, and reading at {:.1} \
         to {:.1} GB/s for the working sets of these shapes.",
        peak / 1e9,
        slow / 1e9,
        fast / 1e9
    );
    Picture::new(("roofline", "Roofline: decoder steps and encoders"), text, [480, 380], |area, is_narrow| {
        let all: Vec<(f64, f64)> = rows.iter().flat_map(|row| [step(row), encoder(row)]).collect();
        let (x, y) = (range(all.iter().map(|p| p.0)), range(all.iter().map(|p| p.1).chain([peak])));
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(if is_narrow { 20 } else { 40 })
            .x_label_area_size(44)
            .y_label_area_size(if is_narrow { 44 } else { 64 })
            .build_cartesian_2d(scale(x, is_narrow), scale(y, false))
            .map_err(said)?;
        mesh!(chart, "FLOPs a byte", "FLOP/s", is_narrow);
        let steps = 60;
        for (i, bandwidth) in [slow, fast].into_iter().enumerate() {
            let roof = (0..=steps).filter_map(|i| {
                let at = x.0 * (x.1 / x.0).powf(f64::from(i) / f64::from(steps));
                let height = (bandwidth * at).min(peak);
                (height >= y.0).then_some((at, height))
            });
            let roof: Vec<_> = roof.collect();
            match i {
                0 => chart.draw_series(DashedLineSeries::new(roof, 5, 4, INK.stroke_width(1))).map_err(said)?,
                _ => chart.draw_series(LineSeries::new(roof, INK.stroke_width(2))).map_err(said)?,
            };
        }
        let plane = chart.plotting_area();
        for row in rows {
            marker(plane, step(row), &KINDS[3])?;
            marker(plane, encoder(row), &KINDS[4])?;
        }
        Ok(())
    })
}

/// Where the time of one token goes, a bar a shape.
pub(super) fn breakdown(rows: &[&Row]) -> Result<Picture, String> {
    let parts = |row: &Row| {
        let t = &row.token;
        [t.layers_ms, t.attention_ms, t.head_ms, t.rest_ms]
    };
    let most = rows.iter().map(|row| parts(row).iter().sum::<f64>()).fold(f64::MIN_POSITIVE, f64::max);
    let height = 40 + 24 * rows.len() as u32;
    let text = "Milliseconds of a decoded token, from left to right: layers (products, norms), attention, head, and the rest (the \
                search). The number behind a bar is their sum.";
    let title = ("breakdown", "Where the time of a token goes");
    Picture::new(title, text.to_owned(), [height, height], |area, is_narrow| {
        let (left, right) = if is_narrow { (128, 50) } else { (190, 70) };
        let width = f64::from(area.dim_in_pixel().0 as i32 - left - right);
        for (i, name) in ["layers", "attention", "head", "rest"].iter().enumerate() {
            let x = left + i as i32 * if is_narrow { 58 } else { 90 };
            let box_ = [(x, 6), (x + 10, 16)];
            area.draw(&Rectangle::new(box_, PARTS[i].filled())).map_err(said)?;
            area.draw(&Rectangle::new(box_, INK.stroke_width(1))).map_err(said)?;
            area.draw(&Text::new(*name, (x + 14, 5), font(is_narrow))).map_err(said)?;
        }
        for (i, row) in rows.iter().enumerate() {
            let y = 30 + 24 * i as i32;
            area.draw(&Text::new(short(&row.name).to_owned(), (4, y + 3), font(is_narrow))).map_err(said)?;
            let mut sum = 0.0;
            for (part, color) in parts(row).into_iter().zip(PARTS) {
                let at = |ms: f64| left + (ms / most * width).round() as i32;
                let bar = [(at(sum), y), (at(sum + part), y + 16)];
                area.draw(&Rectangle::new(bar, color.filled())).map_err(said)?;
                area.draw(&Rectangle::new(bar, PAPER.stroke_width(1))).map_err(said)?;
                sum += part;
            }
            let end = left + (sum / most * width).round() as i32 + 5;
            area.draw(&Text::new(format!("{sum:.3}"), (end, y + 3), font(is_narrow))).map_err(said)?;
        }
        Ok(())
    })
}

/// The grid with its numbers. Scales have types of their own, so this is no function.
macro_rules! mesh {
    ($chart:expr, $x:expr, $y:expr, $is_narrow:expr) => {
        $chart
            .configure_mesh()
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .x_labels(if $is_narrow { 4 } else { 8 })
            .y_labels(6)
            .x_desc($x)
            .y_desc($y)
            .x_label_formatter(&|x| scaled(*x))
            .y_label_formatter(&|y| scaled(*y))
            .label_style(font($is_narrow))
            .axis_desc_style(font($is_narrow))
            .draw()
            .map_err(said)?
    };
}
use mesh;

fn font(is_narrow: bool) -> TextStyle<'static> {
    ("sans-serif", if is_narrow { 11 } else { 13 }).into_font().color(&INK)
}

/// A logarithmic scale with ticks at 1, 2 and 5 of each power of ten, at fewer where there are many.
fn scale((low, high): (f64, f64), is_narrow: bool) -> WithKeyPoints<LogCoord<f64>> {
    let decades = high.log10() - low.log10();
    let few: &[f64] = match () {
        () if decades > if is_narrow { 1.5 } else { 3.0 } => &[1.0],
        () if decades < 0.8 && !is_narrow => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
        () => &[1.0, 2.0, 5.0],
    };
    let powers = (low.log10().floor() as i32..=high.log10().ceil() as i32).map(|power| 10f64.powi(power));
    let ticks = powers.flat_map(|power| few.iter().map(move |n| n * power)).filter(|tick| (low..=high).contains(tick));
    (low..high).log_scale().with_key_points(ticks.collect())
}

/// A range with room around the values, for a logarithmic scale.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|x| x.is_finite() && *x > 0.0)
        .fold((f64::INFINITY, 0f64), |(low, high), x| (low.min(x), high.max(x)));
    if low > high {
        return (1.0, 10.0);
    }
    (low / 1.3, high * 1.3)
}

/// 1500000: 1.5 M
pub(super) fn scaled(x: f64) -> String {
    let (factor, unit) = match x {
        1e12.. => (1e12, " T"),
        1e9.. => (1e9, " G"),
        1e6.. => (1e6, " M"),
        1e4.. => (1e3, " k"),
        _ => (1.0, ""),
    };
    let x = x / factor;
    match x {
        100.0.. => format!("{x:.0}{unit}"),
        _ => {
            let digits = format!("{x:.2}");
            format!("{}{unit}", digits.trim_end_matches('0').trim_end_matches('.'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_know_the_kind_of_a_name() {
        let of = |name| {
            let (kind, size, number) = kind(name);
            (kind.key, size, number)
        };
        assert_eq!(of("t5-efficient-tiny"), ("size", "tiny", 0));
        assert_eq!(of("t5-efficient-tiny-nl16"), ("nl", "tiny", 16));
        assert_eq!(of("t5-efficient-small-el16-dl2"), ("several", "small", 0));
        assert_eq!(of("t5-efficient-base-kv32"), ("kv", "base", 32));
    }

    #[test]
    fn plots_write_short_numbers() {
        let all = [0.25, 3.0, 950.0, 2500.0, 12_000.0, 1.5e6, 1.234e9, 2e11, 3e12].map(scaled);
        assert_eq!(all, ["0.25", "3", "950", "2500", "12 k", "1.5 M", "1.23 G", "200 G", "3 T"]);
    }
}
