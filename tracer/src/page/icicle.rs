//! A flame graph that hangs: who called on top, who wrote at the bottom, as wide as what was
//! copied.

use std::{collections::BTreeMap, fmt::Write as _};

use super::document::{self, CsvCell, escaped, text};
use crate::{
    record::profile::Stack,
    text::{clip, count, plural, visible},
};

/// Pixels.
const WIDTH: f64 = 960.0;
const ROW: f64 = 20.0;
/// Frames that are drawn below each other.
const DEEPEST: usize = 40;
/// Narrower ones are not drawn, pixels.
const NARROWEST: f64 = 1.5;

#[derive(Default)]
struct Node<'a> {
    copied: u64,
    calls: BTreeMap<&'a str, Node<'a>>,
}

/// Appends it with its heading and its data.
pub fn render(stacks: &[Stack], out: &mut String) {
    let mut root = Node::default();
    for stack in stacks.iter().filter(|stack| stack.copied > 0) {
        let mut node = &mut root;
        node.copied += stack.copied;
        let names = std::iter::once(&*stack.comm).filter(|comm| !comm.is_empty());
        for name in names.chain(stack.frames.iter().map(|frame| &**frame)).take(DEEPEST) {
            node = node.calls.entry(name).or_default();
            node.copied += stack.copied;
        }
    }
    if root.copied == 0 {
        return;
    }
    let mut boxes = String::new();
    let depth = draw(&root, root.copied, (0.0, 0), &mut boxes);
    let height = ROW * (depth + 1) as f64;
    let widest = stacks.iter().max_by_key(|stack| stack.copied);
    let widest = widest.map_or_else(String::new, |stack| {
        let inner = stack.frames.last().map_or("?", |frame| &**frame);
        let share = stack.copied as f64 * 100.0 / root.copied as f64;
        format!(" Most, {share:.0} %, was paid for in {}.", clip(&visible(inner), 80))
    });
    let says = format!(
        "The code whose writes were copied: callers above, who wrote below; as wide as the pages \
         that it paid for. {} in all.{widest}",
        plural(root.copied, "page")
    );
    let mut csv = String::new();
    document::csv_line(&mut csv, ["stack", "pages"].into_iter().map(CsvCell::Text));
    for stack in stacks {
        let names = std::iter::once(&stack.comm).chain(&stack.frames);
        let path = names.map(String::as_str).collect::<Vec<_>>().join(";");
        let cells = [CsvCell::Text(&path), CsvCell::Number(Some(stack.copied as f64))];
        document::csv_line(&mut csv, cells.into_iter());
        if csv.len() > 100_000 {
            break;
        }
    }
    let link = document::download("stacks.csv", "Stacks as CSV", "text/csv", &csv);
    let _ = write!(
        out,
        "<h3>Who paid for the copies</h3>\n<figure>\n\
         <div class=\"plot icicle\" role=\"region\" aria-label=\"Who paid for the copies\" \
         tabindex=\"0\"><svg role=\"img\" aria-labelledby=\"icicle-t icicle-d\" \
         width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         xmlns=\"http://www.w3.org/2000/svg\"><title id=\"icicle-t\">Who paid for the \
         copies</title><desc id=\"icicle-d\">{0}</desc>\n{boxes}</svg></div>\n\
         <figcaption>{0}</figcaption>\n</figure>\n<p class=\"data\">{link}.</p>\n",
        escaped(&says)
    );
}

/// Draws what is called, and what that calls; how deep that goes.
fn draw(node: &Node<'_>, all: u64, (x, depth): (f64, usize), out: &mut String) -> usize {
    let mut at = x;
    let mut deepest = depth;
    for (name, call) in &node.calls {
        let width = call.copied as f64 / all as f64 * WIDTH;
        if width >= NARROWEST && out.len() < 150_000 {
            let y = depth as f64 * ROW;
            let full = text(name);
            let share = call.copied as f64 * 100.0 / all as f64;
            let colour = name.bytes().fold(7_u32, |sum, b| sum.wrapping_mul(31) + u32::from(b)) % 6;
            let _ = write!(
                out,
                "<g><title>{full}: {} pages, {share:.1} %</title><rect class=\"c{colour}\" \
                 x=\"{at:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{ROW}\"/>",
                count(call.copied)
            );
            let letters = ((width - 6.0) / 7.0) as usize;
            if letters >= 3 {
                let name = escaped(&clip(&visible(name), letters));
                let _ = write!(
                    out,
                    "<text x=\"{:.1}\" y=\"{}\">{name}</text>",
                    at + 3.0,
                    y + ROW - 6.0
                );
            }
            out.push_str("</g>\n");
            deepest = deepest.max(draw(call, all, (at, depth + 1), out)).max(depth);
        }
        at += width;
    }
    deepest
}
