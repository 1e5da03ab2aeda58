//! The picture: the JobManager above primary storage above the machines, so that all arrows are vertical and none crosses another.
//! Each task has a column of its own: what it wrote to primary lies above it, what it wrote into the local store below it.

use super::{LocalCopy, LocalRecoveryFigure, Written};

const MARGIN: f64 = 24.0;
const GAP: f64 = 20.0;
const COLUMN_GAP: f64 = 12.0;
const PADDING: f64 = 16.0;
/// Of the widest letter of the font, by size.
const LETTER: f64 = 0.62;
const TITLE_SIZE: f64 = 14.0;
const TEXT_SIZE: f64 = 12.0;
const SMALL_SIZE: f64 = 11.0;

const INK: &str = "#1f2937";
const FAINT: &str = "#6b7280";
const PRIMARY: &str = "#2563eb";
const PRIMARY_FILL: &str = "#dbeafe";
const LOCAL: &str = "#d97706";
const LOCAL_FILL: &str = "#fef3c7";
const REFERENCE: &str = "#7c3aed";
const REFERENCE_FILL: &str = "#ede9fe";
const FAILED: &str = "#dc2626";
const MACHINE_FILL: &str = "#f8fafc";
const TASK_FILL: &str = "#ffffff";

/// Where the rows are, from above.
const JOB_MANAGER_Y: f64 = 56.0;
const JOB_MANAGER_HEIGHT: f64 = 76.0;
const PRIMARY_Y: f64 = 188.0;
const PRIMARY_HEIGHT: f64 = 92.0;
const MACHINES_Y: f64 = 340.0;
const MACHINE_HEIGHT: f64 = 236.0;
const TASK_HEIGHT: f64 = 34.0;
const FILES_HEIGHT: f64 = 40.0;
const HEIGHT: f64 = 648.0;

fn text_width(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * LETTER
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn amount(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

fn files(count: usize) -> String {
    if count == 1 { "1 file".to_string() } else { format!("{count} files") }
}

struct Canvas(String);

impl Canvas {
    fn line(&mut self, text: String) {
        self.0.push_str(&text);
        self.0.push('\n');
    }

    fn text(&mut self, (x, y): (f64, f64), size: f64, fill: &str, more: &str, text: &str) {
        let text = escaped(text);
        self.line(format!(r#"<text x="{x:.1}" y="{y:.1}" font-size="{size}" fill="{fill}" {more}>{text}</text>"#));
    }

    fn centred(&mut self, at: (f64, f64), size: f64, fill: &str, text: &str) {
        self.text(at, size, fill, r#"text-anchor="middle""#, text);
    }

    fn rectangle(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str, stroke: &str) {
        self.line(format!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="6" fill="{fill}" stroke="{stroke}"/>"#
        ));
    }

    /// A drum, as stores are drawn.
    fn drum(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str, stroke: &str) {
        let (radius, lid, right, bottom) = (width / 2.0, 9.0, x + width, y + height);
        self.line(format!(
            r#"<path d="M{x:.1} {y:.1} V{bottom:.1} A{radius:.1} {lid} 0 0 0 {right:.1} {bottom:.1} V{y:.1}" fill="{fill}" stroke="{stroke}"/>"#
        ));
        let middle = x + radius;
        self.line(format!(
            r#"<ellipse cx="{middle:.1}" cy="{y:.1}" rx="{radius:.1}" ry="{lid}" fill="{fill}" stroke="{stroke}"/>"#
        ));
    }

    /// A vertical arrow.
    fn arrow(&mut self, x: f64, (from, to): (f64, f64), stroke: &str, marker: &str, dashed: bool) {
        let dashes = if dashed { r#" stroke-dasharray="5 4""# } else { "" };
        self.line(format!(
            r#"<line x1="{x:.1}" y1="{from:.1}" x2="{x:.1}" y2="{to:.1}" stroke="{stroke}" stroke-width="2"{dashes} marker-end="url(#{marker})"/>"#
        ));
    }
}

/// The files that lie in a store, above or below their task.
struct Pile {
    first: String,
    second: String,
}

impl Pile {
    fn width(&self) -> f64 {
        text_width(&self.first, SMALL_SIZE).max(text_width(&self.second, SMALL_SIZE)) + PADDING
    }
}

struct Column<'a> {
    subtask: &'a str,
    written: &'a Written,
    primary: Pile,
    local: Pile,
}

impl<'a> Column<'a> {
    fn new(subtask: &'a str, written: &'a Written) -> Column<'a> {
        let sum = |files: &[(String, u64)]| files.iter().map(|(_, bytes)| bytes).sum::<u64>();
        let mut primary = Pile { first: files(written.primary.len()), second: amount(sum(&written.primary)) };
        if written.reused > 0 {
            primary.first = format!("{} + {} old", files(written.primary.len()), written.reused);
        }
        let local = match &written.copy {
            LocalCopy::Stored | LocalCopy::Confirmed => {
                Pile { first: files(written.local.len()), second: amount(sum(&written.local)) }
            }
            LocalCopy::Failed(_) => Pile { first: "no copy:".to_string(), second: "failed".to_string() },
            LocalCopy::None => Pile { first: "no copy".to_string(), second: String::new() },
        };
        Column { subtask, written, primary, local }
    }

    fn width(&self) -> f64 {
        let task = text_width(self.subtask, TEXT_SIZE) + PADDING;
        task.max(self.primary.width()).max(self.local.width()).max(84.0)
    }
}

fn legend() -> [(&'static str, &'static str, bool, &'static str); 3] {
    [
        (PRIMARY, "to-primary", false, "primary copy: must succeed, is what counts"),
        (LOCAL, "to-local", false, "secondary copy: on the task's own machine, may fail"),
        (REFERENCE, "refers", true, "a completed checkpoint refers to files in primary storage only"),
    ]
}

pub(super) fn draw(figure: &LocalRecoveryFigure) -> String {
    let mut machines: Vec<(&str, Vec<Column<'_>>)> = Vec::new();
    for ((task_manager, subtask), written) in figure.tasks() {
        match machines.last_mut().filter(|(name, _)| *name == task_manager) {
            Some((_, columns)) => columns.push(Column::new(subtask, written)),
            None => machines.push((task_manager, vec![Column::new(subtask, written)])),
        }
    }
    let inner = |columns: &[Column<'_>]| {
        columns.iter().map(Column::width).sum::<f64>() + COLUMN_GAP * (columns.len().max(1) - 1) as f64
    };
    let machine_width = |columns: &[Column<'_>]| inner(columns) + 4.0 * PADDING;
    let title = match figure.checkpoint() {
        Some(shown) => format!("Local recovery: where the state of checkpoint {shown} was written"),
        None => "Local recovery: no checkpoint with state in files has completed".to_string(),
    };
    let legend_width = legend().iter().map(|(.., says)| text_width(says, SMALL_SIZE) + 60.0).sum::<f64>();
    let all: f64 = machines.iter().map(|(_, columns)| machine_width(columns)).sum::<f64>()
        + GAP * machines.len().saturating_sub(1) as f64;
    let kept: Vec<String> = figure.completed().map(|id| format!("chk-{id}")).collect();
    let chip_width = |kept: &str| text_width(kept, TEXT_SIZE) + PADDING;
    let chips: f64 = kept.iter().map(|kept| chip_width(kept) + COLUMN_GAP).sum();
    let job_manager_title =
        format!("{} · completed checkpoints", figure.job_manager.as_deref().unwrap_or("JobManager"));
    let job_manager_width = chips.max(text_width(&job_manager_title, TITLE_SIZE)) + 2.0 * PADDING;
    let content = all.max(legend_width).max(text_width(&title, 17.0)).max(job_manager_width);
    let width = content + 2.0 * MARGIN;

    let mut canvas = Canvas(String::new());
    canvas.line(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {HEIGHT:.0}" width="{width:.0}" height="{HEIGHT:.0}" font-family="DejaVu Sans, Verdana, sans-serif">"#
    ));
    canvas.line("<defs>".to_string());
    for (colour, marker, ..) in legend() {
        canvas.line(format!(
            r#"<marker id="{marker}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{colour}"/></marker>"#
        ));
    }
    canvas.line("</defs>".to_string());
    canvas.line(format!(r##"<rect width="{width:.0}" height="{HEIGHT:.0}" fill="#ffffff"/>"##));
    canvas.text((MARGIN, 34.0), 17.0, INK, r#"font-weight="bold""#, &title);

    // The JobManager, with a chip for each completed checkpoint.
    let middle = width / 2.0;
    let left = middle - job_manager_width / 2.0;
    canvas.rectangle((left, JOB_MANAGER_Y), (job_manager_width, JOB_MANAGER_HEIGHT), MACHINE_FILL, INK);
    canvas.centred((middle, JOB_MANAGER_Y + 22.0), TITLE_SIZE, INK, &job_manager_title);
    let mut x = middle - (chips - COLUMN_GAP) / 2.0;
    for chip in &kept {
        let (chip_width, y) = (chip_width(chip), JOB_MANAGER_Y + 36.0);
        let is_shown = figure.checkpoint().is_some_and(|shown| *chip == format!("chk-{shown}"));
        let fill = if is_shown { REFERENCE_FILL } else { TASK_FILL };
        canvas.rectangle((x, y), (chip_width, 26.0), fill, REFERENCE);
        canvas.centred((x + chip_width / 2.0, y + 17.0), TEXT_SIZE, INK, chip);
        canvas.arrow(x + chip_width / 2.0, (y + 27.0, PRIMARY_Y - 14.0), REFERENCE, "refers", true);
        x += chip_width + COLUMN_GAP;
    }

    // Primary storage.
    canvas.drum((MARGIN, PRIMARY_Y), (content, PRIMARY_HEIGHT), PRIMARY_FILL, PRIMARY);
    let referenced = format!("primary storage · {} of this checkpoint", files(figure.referenced()));
    canvas.centred((middle, PRIMARY_Y + 26.0), TITLE_SIZE, INK, &referenced);

    // The machines, with their tasks and local stores.
    let mut x = MARGIN + (content - all) / 2.0;
    for (task_manager, columns) in &machines {
        let machine_width = machine_width(columns);
        canvas.rectangle((x, MACHINES_Y), (machine_width, MACHINE_HEIGHT), MACHINE_FILL, FAINT);
        canvas.text((x + PADDING, MACHINES_Y + 24.0), TITLE_SIZE, INK, r#"font-weight="bold""#, task_manager);
        let task_y = MACHINES_Y + 38.0;
        let store_y = task_y + TASK_HEIGHT + 56.0;
        let (store_x, store_width) = (x + PADDING, machine_width - 2.0 * PADDING);
        canvas.drum((store_x, store_y), (store_width, 84.0), LOCAL_FILL, LOCAL);
        canvas.centred((store_x + store_width / 2.0, store_y + 82.0), SMALL_SIZE, INK, "local store");
        let mut column_x = x + 2.0 * PADDING;
        for column in columns {
            let (column_width, written) = (column.width(), column.written);
            let centre = column_x + column_width / 2.0;
            canvas.rectangle((column_x, task_y), (column_width, TASK_HEIGHT), TASK_FILL, INK);
            canvas.centred((centre, task_y + 21.0), TEXT_SIZE, INK, column.subtask);
            let pile_y = PRIMARY_Y + 38.0;
            pile(&mut canvas, (column_x, pile_y), column_width, PRIMARY, &column.primary, INK);
            if !written.primary.is_empty() {
                canvas.arrow(centre, (task_y - 1.0, pile_y + FILES_HEIGHT + 3.0), PRIMARY, "to-primary", false);
            }
            let pile_y = store_y + 20.0;
            let is_there = matches!(written.copy, LocalCopy::Stored | LocalCopy::Confirmed);
            let (stroke, ink) = match written.copy {
                LocalCopy::Failed(_) => (FAILED, FAILED),
                _ if is_there => (LOCAL, INK),
                _ => (FAINT, FAINT),
            };
            pile(&mut canvas, (column_x, pile_y), column_width, stroke, &column.local, ink);
            if is_there {
                canvas.arrow(centre, (task_y + TASK_HEIGHT + 1.0, pile_y - 3.0), LOCAL, "to-local", false);
            }
            column_x += column_width + COLUMN_GAP;
        }
        x += machine_width + GAP;
    }

    // What the colours mean.
    let mut x = MARGIN;
    let y = HEIGHT - 34.0;
    for (colour, marker, dashed, says) in legend() {
        let dashes = if dashed { r#" stroke-dasharray="5 4""# } else { "" };
        canvas.line(format!(
            r#"<line x1="{x:.1}" y1="{y:.1}" x2="{:.1}" y2="{y:.1}" stroke="{colour}" stroke-width="2"{dashes} marker-end="url(#{marker})"/>"#,
            x + 32.0
        ));
        canvas.text((x + 40.0, y + 4.0), SMALL_SIZE, FAINT, "", says);
        x += text_width(says, SMALL_SIZE) + 60.0;
    }
    canvas.line("</svg>".to_string());
    canvas.0
}

fn pile(canvas: &mut Canvas, (x, y): (f64, f64), width: f64, stroke: &str, pile: &Pile, ink: &str) {
    canvas.rectangle((x, y), (width, FILES_HEIGHT), TASK_FILL, stroke);
    canvas.centred((x + width / 2.0, y + 17.0), SMALL_SIZE, ink, &pile.first);
    canvas.centred((x + width / 2.0, y + 32.0), SMALL_SIZE, ink, &pile.second);
}
