//! Departures from New York's airports: running figures per carrier and per route, from the CSV of nycflights13.
//!
//! One source feeds two keyed operators. All sums are integers, so that the same records give the same output to the byte.

use serde::{Deserialize, Serialize};

use super::{JobParams, Origin, json_line};
use crate::{
    api::{JobError, KeyedProcess},
    graph::Job,
    state::{KeyedContext, OpenContext, UserError, ValueState},
};

pub type FlightsParams = JobParams;

/// Columns of the CSV.
const COLUMNS: usize = 19;
const DEP_TIME: usize = 3;
const DEP_DELAY: usize = 5;
const CARRIER: usize = 9;
const ORIGIN: usize = 12;
const DESTINATION: usize = 13;

/// No value: the data set as published in R's way has `NA`, other editions leave the field empty.
fn is_missing(field: &str) -> bool {
    field.is_empty() || field == "NA"
}

/// What the job takes of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flight {
    pub carrier: String,
    /// Airports from and to, `EWR-IAH`.
    pub route: String,
    /// No departure time: it did not fly.
    pub cancelled: bool,
    /// In minutes, negative if early.
    pub delay: Option<i32>,
    pub origin: Origin,
}

/// A line of output: the figures of one carrier or route, including the row they come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlightFigures {
    pub key: String,
    /// Counts the rows of the key, from 1, without gap.
    pub sequence: u64,
    /// Rows that have a departure delay.
    pub count: u64,
    pub cancelled: u64,
    /// Of all rows with a delay, in minutes.
    pub delay_sum: i64,
    /// In minutes, to two decimals, rounded down; none while there is no delay.
    pub mean_delay: Option<f64>,
    pub split: u32,
    pub offset: u64,
}

/// The state per key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Totals {
    rows: u64,
    delayed: u64,
    cancelled: u64,
    delay_sum: i64,
}

/// Reads a row.
///
/// # Errors
/// If it has not the columns of nycflights13.
pub fn parse(origin: Origin, line: &str) -> Result<Option<Flight>, UserError> {
    if line.is_empty() {
        return Ok(None);
    }
    // No field of this data set needs quotes; one that has them would be read wrongly.
    if line.contains('"') {
        return Err(UserError::new("quoted fields are not expected in this CSV"));
    }
    let mut fields = [""; COLUMNS];
    let mut count = 0;
    for field in line.split(',') {
        if let Some(place) = fields.get_mut(count) {
            *place = field;
        }
        count += 1;
    }
    if count != COLUMNS {
        return Err(UserError::new(format!("{count} columns where {COLUMNS} are expected")));
    }
    let delay = match fields[DEP_DELAY] {
        missing if is_missing(missing) => None,
        // Some editions of the data set write whole numbers with a decimal.
        minutes => Some(minutes.strip_suffix(".0").unwrap_or(minutes).parse().map_err(|error| {
            UserError::new(format!("dep_delay {minutes:?} is not a whole number of minutes: {error}"))
        })?),
    };
    Ok(Some(Flight {
        carrier: fields[CARRIER].to_string(),
        route: format!("{}-{}", fields[ORIGIN], fields[DESTINATION]),
        cancelled: is_missing(fields[DEP_TIME]),
        delay,
        origin,
    }))
}

/// Source `lines`, operators `by-carrier` and `by-route`, outputs `carriers` and `routes`.
///
/// # Errors
/// If the parameters make no job.
pub fn job(params: &FlightsParams) -> Result<Job, JobError> {
    let builder = params.builder("flights")?;
    let flights = params.lines(&builder, true, |at, line| parse(Origin::from(at), line));
    flights.key_by(|flight| flight.carrier.clone()).process("by-carrier", Figures::default).sink("carriers", json_line);
    flights.key_by(|flight| flight.route.clone()).process("by-route", Figures::default).sink("routes", json_line);
    builder.build()
}

#[derive(Default)]
struct Figures {
    totals: ValueState<Totals>,
}

impl KeyedProcess for Figures {
    type Key = String;
    type In = Flight;
    type Out = FlightFigures;

    fn open(&mut self, ctx: &mut OpenContext<'_, String>) -> Result<(), UserError> {
        self.totals = ctx.value_state("totals")?;
        Ok(())
    }

    fn process(
        &mut self,
        value: Flight,
        ctx: &mut KeyedContext<'_, String>,
        out: &mut Vec<FlightFigures>,
    ) -> Result<(), UserError> {
        let key = ctx.key().clone();
        let totals = self.totals.get_or_default_mut(ctx)?;
        totals.rows += 1;
        totals.cancelled += u64::from(value.cancelled);
        if let Some(delay) = value.delay {
            totals.delayed += 1;
            totals.delay_sum += i64::from(delay);
        }
        out.push(FlightFigures {
            key,
            sequence: totals.rows,
            count: totals.delayed,
            cancelled: totals.cancelled,
            delay_sum: totals.delay_sum,
            mean_delay: mean(totals.delay_sum, totals.delayed),
            split: value.origin.split,
            offset: value.origin.offset,
        });
        Ok(())
    }
}

/// To two decimals, by integers; the division at the end only places the decimal point.
fn mean(sum: i64, count: u64) -> Option<f64> {
    let hundredths = (i128::from(sum) * 100).checked_div_euclid(i128::from(count))?;
    #[allow(clippy::cast_precision_loss)] // minutes of delay are far from 2^53
    Some(hundredths as f64 / 100.0)
}
