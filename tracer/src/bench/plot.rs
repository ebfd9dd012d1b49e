//! Plots as SVG. Lines and letters take the colour of the text around them, so that a plot is
//! readable on a light page and on a dark one.

use plotters::{
    coord::{Shift, cartesian::Cartesian2d},
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};
use unicode_width::UnicodeWidthStr as _;

use super::{Axis, Plot};
use crate::text::visible;

mod ticks;

use self::ticks::Scale;

/// Pixels.
const SIZE: (u32, u32) = (760, 420);
/// Pixels of a line of the legend.
const LEGEND: u32 = 22;
/// Pixels of a line above it, in a file of its own.
const TITLE: u32 = 30;
/// What stands for the colour of the text, until the text is written.
const INK: RGBColor = RGBColor(1, 2, 3);
/// As it is written.
const INK_WRITTEN: &str = "#010203";
/// Tell each other apart on white and on black, also for those who see fewer colours.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0x2f, 0x80, 0xc8),
    RGBColor(0xd6, 0x73, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xc7, 0x5b, 0x9b),
    RGBColor(0x8d, 0x6f, 0xd6),
    RGBColor(0xb0, 0x8a, 0x00),
    RGBColor(0xd1, 0x45, 0x4b),
    RGBColor(0x80, 0x80, 0x80),
];

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Through its points, which are seen.
    Both,
    /// Without them.
    Line,
    /// As a limit of something.
    Faint,
    /// Points alone.
    Points,
}

/// What a plot leaves open.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// Ends of the axes, where they do not follow from the values.
    pub x: Option<(f64, f64)>,
    /// As `x`.
    pub y: Option<(f64, f64)>,
    /// By series: the mark, and the number of the colour. Those without are drawn as in `bench`.
    pub looks: Vec<(Mark, usize)>,
}

impl Frame {
    fn look(&self, n: usize) -> (Mark, usize) {
        self.looks.get(n).copied().unwrap_or((Mark::Both, n))
    }
}

/// The plot as an element of a page; `None` where there is nothing to show.
#[must_use]
pub fn inline(plot: &Plot, title: &str) -> Option<String> {
    coloured(plot, &Frame::default(), None, title)
}

/// The same, drawn in a frame.
#[must_use]
pub fn framed(plot: &Plot, title: &str, frame: &Frame) -> Option<String> {
    coloured(plot, frame, None, title)
}

/// The plot as a file of its own.
#[must_use]
pub fn file(plot: &Plot, title: &str) -> Option<String> {
    const STYLE: &str = "<style>svg{color:#222;background:#fff}\
        @media(prefers-color-scheme:dark){svg{color:#ddd;background:#161616}}</style>\n";
    let svg = coloured(plot, &Frame::default(), Some(title), title)?;
    let (head, rest) = svg.split_once('\n')?;
    Some(format!("{head}\n{STYLE}{rest}"))
}

fn coloured(plot: &Plot, frame: &Frame, title: Option<&str>, label: &str) -> Option<String> {
    let svg = drawn(plot, frame, title)?.replace(INK_WRITTEN, "currentColor");
    let label = crate::page::document::escaped(label);
    Some(svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{label}\" "), 1))
}

/// A line as it is drawn.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
    mark: Mark,
    colour: usize,
}

fn drawn(plot: &Plot, frame: &Frame, title: Option<&str>) -> Option<String> {
    let shown = |&(x, y): &(f64, f64)| plot.x.shows(x) && plot.y.shows(y);
    let mut lines: Vec<Line> = plot
        .series
        .iter()
        .enumerate()
        .map(|(n, s)| {
            let (mark, colour) = frame.look(n);
            let points = s.points.iter().copied().filter(shown).collect();
            Line { name: visible(&s.name), points, mark, colour }
        })
        .filter(|line| !line.points.is_empty())
        .collect();
    let all = || lines.iter().flat_map(|line| &line.points);
    let scale = |axis: &Axis, ends: Option<(f64, f64)>, of: fn(&(f64, f64)) -> f64| match ends {
        Some(ends) => Some(Scale::between(ends, axis.log, axis.unit)),
        None => Scale::over(all().map(of), axis.log, axis.unit),
    };
    let x = scale(&plot.x, frame.x, |p| p.0)?;
    let y = scale(&plot.y, frame.y, |p| p.1)?;
    for line in &mut lines {
        line.points.retain(|&(a, b)| x.has(a) && y.has(b));
    }
    lines.retain(|line| !line.points.is_empty());
    if lines.is_empty() {
        return None;
    }
    let mut svg = String::new();
    draw(&mut svg, plot, title, &lines, (x, y)).ok()?;
    Some(svg)
}

impl Axis {
    fn shows(&self, value: f64) -> bool {
        value.is_finite() && (!self.log || value > 0.0)
    }

    fn title(&self) -> String {
        let scale = if self.log { " (logarithmic)" } else { "" };
        format!("{}{scale}", visible(&self.label))
    }
}

type Error = DrawingAreaErrorKind<std::io::Error>;

fn draw(
    svg: &mut String,
    plot: &Plot,
    title: Option<&str>,
    lines: &[Line],
    (x, y): (Scale, Scale),
) -> Result<(), Error> {
    let height = if title.is_some() { TITLE } else { 0 };
    let whole = SVGBackend::with_string(svg, (SIZE.0, SIZE.1 + height)).into_drawing_area();
    let (head, root) = whole.split_vertically(height);
    let legend = Legend::new(lines.iter().map(|line| line.name.as_str()));
    let (top, body) = root.split_vertically(legend.rows * LEGEND + 8);
    let font = |size: u32| ("sans-serif", size).into_font().color(&INK);
    if let Some(title) = title {
        head.draw_text(&visible(title), &font(18), (16, 10))?;
    }
    legend.draw(&top, &font(16), lines)?;
    let mut chart: ChartContext<'_, _, Cartesian2d<Scale, Scale>> = ChartBuilder::on(&body)
        .margin(8)
        .margin_right(40)
        .x_label_area_size(48)
        .y_label_area_size(84)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(INK.mix(0.14))
        .axis_style(INK.mix(0.6))
        .label_style(font(15))
        .axis_desc_style(font(16))
        .x_desc(plot.x.title())
        .y_desc(plot.y.title())
        .draw()?;
    for line in lines {
        let colour = COLOURS[line.colour % COLOURS.len()];
        let mut points = line.points.clone();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let style = match line.mark {
            Mark::Faint => Some(colour.stroke_width(1)),
            Mark::Points => None,
            Mark::Both | Mark::Line => Some(colour.stroke_width(2)),
        };
        if let Some(style) = style {
            chart.draw_series(LineSeries::new(points.clone(), style))?;
        }
        // A line from a point to itself is not seen.
        let stays = line.mark == Mark::Line && points.iter().all(|point| *point == points[0]);
        points.truncate(if stays { 1 } else { usize::MAX });
        if stays || matches!(line.mark, Mark::Both | Mark::Points) {
            for point in points {
                chart.draw_series([marker(line.colour, point, colour)])?;
            }
        }
    }
    whole.present()
}

/// Shapes differ too: some readers see no colours, some papers have none.
fn marker<'a, C: Clone + 'static>(
    n: usize,
    at: C,
    colour: RGBColor,
) -> DynElement<'static, SVGBackend<'a>, C> {
    match n % 3 {
        0 => Circle::new(at, 4, colour.filled()).into_dyn(),
        1 => TriangleMarker::new(at, 6, colour.filled()).into_dyn(),
        _ => Cross::new(at, 4, colour.stroke_width(2)).into_dyn(),
    }
}

/// The names of the lines, from left to right above the plot.
struct Legend<'a> {
    rows: u32,
    /// Column and row in pixels.
    entries: Vec<(&'a str, (i32, i32))>,
}

impl<'a> Legend<'a> {
    fn new(names: impl Iterator<Item = &'a str>) -> Self {
        /// Of a letter, generously: nobody knows the font.
        const LETTER: i32 = 8;
        const FIRST: i32 = 92;
        let (mut x, mut row) = (FIRST, 0);
        let entries = names
            .map(|name| {
                let width = 34 + LETTER * name.width() as i32;
                if x + width > SIZE.0 as i32 && x > FIRST {
                    (x, row) = (FIRST, row + 1);
                }
                let at = (x, row * LEGEND as i32 + LEGEND as i32 / 2 + 6);
                x += width;
                (name, at)
            })
            .collect();
        Self { rows: row as u32 + 1, entries }
    }

    fn draw<'b>(
        &self,
        area: &DrawingArea<SVGBackend<'b>, Shift>,
        style: &TextStyle<'_>,
        lines: &[Line],
    ) -> Result<(), Error> {
        let style = style.pos(Pos::new(HPos::Left, VPos::Center));
        for (line, &(name, (x, y))) in lines.iter().zip(&self.entries) {
            let colour = COLOURS[line.colour % COLOURS.len()];
            if line.mark != Mark::Points {
                let width = if line.mark == Mark::Faint { 1 } else { 2 };
                let style = colour.stroke_width(width);
                area.draw(&PathElement::new(vec![(x, y), (x + 20, y)], style))?;
            }
            if matches!(line.mark, Mark::Both | Mark::Points) {
                area.draw(&marker(line.colour, (x + 10, y), colour))?;
            }
            area.draw_text(name, &style, (x + 25, y))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Series, Unit};

    fn plot(log: bool, points: Vec<(f64, f64)>) -> Plot {
        Plot {
            x: Axis { label: "memory of the parent".into(), unit: Unit::Bytes, log },
            y: Axis { label: "call".into(), unit: Unit::Ns, log },
            series: vec![
                Series { name: "<script>&\x1b".into(), points },
                Series { name: "vfork".into(), points: vec![(1048576.0, 5e4), (1e9, 5e4)] },
            ],
        }
    }

    #[test]
    fn a_plot_names_its_lines_and_units() {
        for log in [false, true] {
            let svg = file(&plot(log, vec![(0.0, 1e5), (1e6, 1e5), (1e9, 2e7)]), "a \"title\"");
            let svg = svg.unwrap();
            assert!(svg.starts_with("<svg role=\"img\" aria-label=\"a &quot;title&quot;\" "));
            assert!(svg.contains("&lt;script&gt;&amp;\\u{1b}") && !svg.contains("<script"));
            assert!(svg.contains("currentColor") && !svg.contains(INK_WRITTEN), "{svg}");
            for word in ["vfork", "memory of the parent", "MiB", " ms", "sans-serif"] {
                assert!(svg.contains(word), "{word} in {svg}");
            }
            assert_eq!(svg.matches("</svg>").count(), 1);
        }
    }

    #[test]
    fn a_line_that_is_one_place_is_seen() {
        let frame = Frame { looks: vec![(Mark::Line, 0), (Mark::Line, 1)], ..Frame::default() };
        let points = |all: &[(f64, f64)]| {
            let svg = framed(&plot(true, all.to_vec()), "", &frame).unwrap();
            svg.matches("<circle").count()
        };
        assert_eq!(points(&[(1e6, 1e5), (1e6, 1e5)]), 1);
        assert_eq!(points(&[(1e6, 1e5), (1e7, 1e5)]), 0);
    }

    #[test]
    fn nothing_to_show_is_no_plot() {
        let mut empty = plot(true, vec![(0.0, 1.0), (f64::NAN, 2.0), (3.0, -1.0)]);
        empty.series.pop();
        assert_eq!(inline(&empty, ""), None);
    }

    #[test]
    fn a_legend_breaks_between_names() {
        let names = ["a name of about thirty letters"; 4];
        let legend = Legend::new(names.into_iter());
        assert_eq!(legend.rows, 2);
        assert!(legend.entries.iter().all(|(_, (x, _))| *x < SIZE.0 as i32));
        assert_eq!(legend.entries[0].1.0, legend.entries[2].1.0);
    }
}
