//! Draws the figures of the benches as benches/plots/*.svg: `cargo bench --bench plot` (with
//! `-- FOLDER` for figures outside of target/bench-results). Without cargo's `--bench`, as in a test
//! of all benches, it draws nothing.

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;
type Point = (f64, f64);

fn main() -> Result {
    let (flags, folders): (Vec<_>, Vec<_>) = env::args()
        .skip(1)
        .partition(|argument| argument.starts_with('-'));
    if !flags.iter().any(|flag| flag == "--bench") {
        return Ok(());
    }
    // The program is two levels below the target folder, in `release/deps`.
    let beside = || {
        Some(
            env::current_exe()
                .ok()?
                .ancestors()
                .nth(3)?
                .join("bench-results"),
        )
    };
    let figures = folders
        .first()
        .map(PathBuf::from)
        .or_else(beside)
        .ok_or("no folder of figures")?;
    let plots = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/plots");
    fs::create_dir_all(&plots)?;
    for (from, to, draw) in [
        (
            "footprint.csv",
            "footprint.svg",
            footprint as fn(&Table) -> Result<String>,
        ),
        ("activation.csv", "cold-start.svg", cold_start),
    ] {
        match fs::read_to_string(figures.join(from)) {
            Ok(text) => {
                fs::write(plots.join(to), draw(&Table::read(&text)?)?)?;
                println!("{}", plots.join(to).display());
            }
            Err(error) => println!(
                "{to} is not drawn: {}: {error}",
                figures.join(from).display()
            ),
        }
    }
    Ok(())
}

/// Draws memory by the number of leases.
fn footprint(table: &Table) -> Result<String> {
    let figure = |column| -> Result<Lines> {
        let mut lines = table.lines("leases", column)?;
        for points in lines.values_mut() {
            // A logarithmic axis has no zero: idle is at a tenth of a lease. A subject without a
            // process is not drawn.
            points.retain(|(_, kilobytes)| *kilobytes > 0.0);
            points
                .iter_mut()
                .for_each(|(leases, _)| *leases = leases.max(0.1));
        }
        Ok(lines)
    };
    let leases = || Axis {
        name: "leases",
        scale: Scale::Logarithm,
        from: 0.1,
        to: 1000.0,
        ticks: vec![
            (0.1, "idle".into()),
            (1.0, "1".into()),
            (10.0, "10".into()),
            (100.0, "100".into()),
            (1000.0, "1,000".into()),
        ],
    };
    let (pss, anonymous) = (figure("pss_kb")?, figure("rss_anon_kb")?);
    // Both panels have the same scale, so that they can be compared.
    let memory = |name| {
        Axis::decades(
            name,
            pss.values()
                .chain(anonymous.values())
                .flatten()
                .map(|point| point.1),
        )
    };
    let panels = [
        Panel {
            title: "Pss: private pages and a share of shared ones",
            x: leases(),
            y: memory("kB of 1024 bytes"),
            lines: &pss,
        },
        Panel {
            title: "RssAnon: heap and stacks",
            x: leases(),
            y: memory(""),
            lines: &anonymous,
        },
    ];
    Ok(drawing(
        "Memory for leases",
        &panels,
        &table.subjects(),
        true,
    ))
}

/// Draws the share of starts that have answered, by time.
fn cold_start(table: &Table) -> Result<String> {
    let mut lines = Lines::new();
    for (subject, mut points) in table.lines("microseconds", "microseconds")? {
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        let share = |place: usize| place as f64 * 100.0 / points.len() as f64;
        // A step up at each start.
        let steps = points.iter().enumerate().flat_map(|(place, (micros, _))| {
            [
                (micros / 1000.0, share(place)),
                (micros / 1000.0, share(place + 1)),
            ]
        });
        lines.insert(subject, steps.collect());
    }
    let times = Axis::fine(
        "milliseconds from exec to the first answer",
        lines.values().flatten().map(|p| p.0),
    );
    let ticks = [0, 25, 50, 75, 100]
        .map(|share| (f64::from(share), share.to_string()))
        .to_vec();
    let share = Axis {
        name: "% of starts that have answered",
        scale: Scale::Linear,
        from: 0.0,
        to: 100.0,
        ticks,
    };
    let panel = Panel {
        title: "",
        x: times,
        y: share,
        lines: &lines,
    };
    Ok(drawing(
        "Cold start by socket activation",
        &[panel],
        &table.subjects(),
        false,
    ))
}

/// The line of each subject.
type Lines = BTreeMap<String, Vec<Point>>;

/// A table of figures with a header, as the benches write it.
struct Table {
    names: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn read(text: &str) -> Result<Self> {
        let cells = |line: &str| {
            line.split(',')
                .map(|cell| cell.trim().to_owned())
                .collect::<Vec<_>>()
        };
        let mut rows = text.lines().filter(|line| !line.is_empty()).map(cells);
        let names = rows.next().ok_or("no line of names")?;
        let rows: Vec<_> = rows.collect();
        match rows.iter().find(|row| row.len() != names.len()) {
            Some(row) => Err(format!("not one figure for each name: {row:?}").into()),
            None if rows.is_empty() => Err("no figures".into()),
            None => Ok(Self { names, rows }),
        }
    }

    fn column(&self, name: &str) -> Result<usize> {
        self.names
            .iter()
            .position(|own| own == name)
            .ok_or_else(|| format!("no column {name}").into())
    }

    fn lines(&self, x: &str, y: &str) -> Result<Lines> {
        let (subject, x, y) = (self.column("subject")?, self.column(x)?, self.column(y)?);
        let mut lines = Lines::new();
        for row in &self.rows {
            lines
                .entry(row[subject].clone())
                .or_default()
                .push((row[x].parse()?, row[y].parse()?));
        }
        Ok(lines)
    }

    /// Returns the subjects in the order of the table.
    fn subjects(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for row in &self.rows {
            if !all.contains(&row[0]) {
                all.push(row[0].clone());
            }
        }
        all
    }
}

enum Scale {
    Linear,
    Logarithm,
}

struct Axis {
    name: &'static str,
    scale: Scale,
    from: f64,
    to: f64,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Returns an axis between two powers of ten.
    fn decades(name: &'static str, values: impl Iterator<Item = f64>) -> Self {
        let (least, most) = range(values);
        let (from, to) = (least.log10().floor() as i32, most.log10().ceil() as i32);
        let ticks = (from..=to)
            .map(|power| (10f64.powi(power), label(10f64.powi(power))))
            .collect();
        Self {
            name,
            scale: Scale::Logarithm,
            from: 10f64.powi(from),
            to: 10f64.powi(to),
            ticks,
        }
    }

    /// Returns an axis for the range of the values, with ticks at round numbers of each decade.
    fn fine(name: &'static str, values: impl Iterator<Item = f64>) -> Self {
        let (least, most) = range(values);
        let all = (-6..9).flat_map(|power| {
            [1.0, 1.5, 2.0, 3.0, 5.0, 7.0].map(|digit| digit * 10f64.powi(power))
        });
        let (from, to) = (least / 1.1, most * 1.1);
        let ticks = all
            .filter(|tick| (from..=to).contains(tick))
            .map(|tick| (tick, label(tick)))
            .collect();
        Self {
            name,
            scale: Scale::Logarithm,
            from,
            to,
            ticks,
        }
    }

    /// Returns the position of a value on the axis, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => (value - self.from) / (self.to - self.from),
            Scale::Logarithm => (value / self.from).log10() / (self.to / self.from).log10(),
        }
    }
}

fn range(values: impl Iterator<Item = f64>) -> Point {
    values.fold(
        (f64::INFINITY, f64::MIN_POSITIVE),
        |(least, most), value| (least.min(value), most.max(value)),
    )
}

/// Returns a number with thousands separators, and with decimals only below ten.
fn label(number: f64) -> String {
    if number < 10.0 {
        return format!("{number:.3}")
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned();
    }
    match number as u64 {
        small @ ..1000 => small.to_string(),
        large => format!("{},{:03}", label((large / 1000) as f64), large % 1000),
    }
}

struct Panel<'a> {
    title: &'static str,
    x: Axis,
    y: Axis,
    lines: &'a Lines,
}

/// The colours, marks and dashes of the lines. The colours are distinct for colour-blind readers too
/// (Okabe and Ito).
const LOOKS: [(&str, &str, &str); 7] = [
    ("#0072b2", "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z", ""),
    ("#56b4e9", "M-4,-4h8v8h-8z", "7 3"),
    ("#e69f00", "M0,-5.5l5.5,5.5l-5.5,5.5l-5.5,-5.5z", "2 2"),
    ("#d55e00", "M0,-5l5,9h-10z", ""),
    ("#009e73", "M0,5l5,-9h-10z", "7 3"),
    (
        "#aa4499",
        "M-5,-1.5h3.5v-3.5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5z",
        "2 2",
    ),
    ("#555555", "M-5,-2h10v4h-10z", "7 3 2 3"),
];

/// Returns the look of a subject, which is the same in all plots.
fn look(subject: &str, place: usize) -> (&'static str, &'static str, &'static str) {
    let known = ["ours", "static", "twin", "netavark"];
    LOOKS[known
        .iter()
        .position(|known| *known == subject)
        .unwrap_or(known.len().max(place) % LOOKS.len())]
}

const PANEL: (f64, f64) = (370.0, 310.0);
const TOP: f64 = 74.0;
const LEFT: f64 = 84.0;
const GAP: f64 = 78.0;
const BOTTOM: f64 = 58.0;
const LEGEND: f64 = 126.0;

/// Returns the picture, on white, so that it is readable on a dark page too.
fn drawing(title: &str, panels: &[Panel<'_>], subjects: &[String], marks: bool) -> String {
    let step = PANEL.0 + GAP;
    // A single panel is wider.
    let wide = if panels.len() == 1 {
        PANEL.0 * 1.6
    } else {
        PANEL.0
    };
    let right = LEFT + step * (panels.len() - 1) as f64 + wide;
    let (width, height) = (right + LEGEND, TOP + PANEL.1 + BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n\
         <title>{title}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"30\" font-size=\"18\" font-weight=\"bold\">{title}</text>\n"
    );
    for (place, panel) in panels.iter().enumerate() {
        panel_at(
            &mut svg,
            panel,
            LEFT + step * place as f64,
            wide,
            subjects,
            marks,
        );
    }
    for (place, subject) in subjects.iter().enumerate() {
        let ((colour, mark, dashes), y) = (look(subject, place), TOP + 12.0 + 24.0 * place as f64);
        let x = right + 16.0;
        add(
            &mut svg,
            format!(
                "<path d=\"M{x:.1},{y:.1}h24\" stroke=\"{colour}\" stroke-width=\"2.5\" stroke-dasharray=\"{dashes}\"/>"
            ),
        );
        if marks {
            add(
                &mut svg,
                format!(
                    "<path transform=\"translate({:.1},{y:.1})\" d=\"{mark}\" fill=\"{colour}\"/>",
                    x + 12.0
                ),
            );
        }
        add(&mut svg, text(x + 30.0, y + 4.5, "start", subject));
    }
    svg + "</svg>\n"
}

fn panel_at(
    svg: &mut String,
    panel: &Panel<'_>,
    left: f64,
    wide: f64,
    subjects: &[String],
    marks: bool,
) {
    let (bottom, right) = (TOP + PANEL.1, left + wide);
    let at_x = |value: f64| left + panel.x.place(value) * wide;
    let at_y = |value: f64| bottom - panel.y.place(value) * PANEL.1;
    add(svg, text(left, TOP - 16.0, "start", panel.title));
    for (value, name) in &panel.y.ticks {
        let y = at_y(*value);
        add(
            svg,
            format!("<path d=\"M{left:.1},{y:.1}H{right:.1}\" stroke=\"#ddd\"/>"),
        );
        add(svg, text(left - 8.0, y + 4.5, "end", name));
    }
    for (value, name) in &panel.x.ticks {
        let x = at_x(*value);
        add(
            svg,
            format!("<path d=\"M{x:.1},{TOP}V{bottom:.1}\" stroke=\"#ddd\"/>"),
        );
        add(svg, text(x, bottom + 20.0, "middle", name));
    }
    add(
        svg,
        text((left + right) / 2.0, bottom + 44.0, "middle", panel.x.name),
    );
    let middle = TOP + PANEL.1 / 2.0;
    let turned = format!(
        "<g transform=\"translate({:.1},{middle:.1}) rotate(-90)\">",
        left - 66.0
    );
    add(
        svg,
        turned + &text(0.0, 0.0, "middle", panel.y.name) + "</g>",
    );
    // The first line is drawn last, above the others.
    for (place, subject) in subjects.iter().enumerate().rev() {
        let Some(points) = panel.lines.get(subject) else {
            continue;
        };
        let (colour, mark, dashes) = look(subject, place);
        let path: Vec<_> = points
            .iter()
            .map(|(x, y)| format!("{:.1},{:.1}", at_x(*x), at_y(*y)))
            .collect();
        add(
            svg,
            format!(
                "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\" stroke-dasharray=\"{dashes}\" \
             stroke-linejoin=\"round\"/>",
                path.join("L")
            ),
        );
        for point in path.iter().filter(|_| marks) {
            add(
                svg,
                format!("<path transform=\"translate({point})\" d=\"{mark}\" fill=\"{colour}\"/>"),
            );
        }
    }
}

fn text(x: f64, y: f64, anchor: &str, words: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>")
}

fn add(svg: &mut String, element: String) {
    // Writing to a string cannot fail.
    let _ = writeln!(svg, "{element}");
}
