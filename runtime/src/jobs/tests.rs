//! The jobs on real and on small input, against counts made another way.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    flights::{FlightFigures, parse},
    wordcount::{WordCount, words},
    *,
};
use crate::api::driver::{Driver, JobSnapshot};

const FLIGHTS: &[u8] = include_bytes!("../../../tests/data/flights-2013-01.csv");

fn params(content: &[u8], parallelism: u32, splits_per_file: u32) -> JobParams {
    let inputs = vec![InputFile { path: "input".into(), length: content.len() as u64 }];
    JobParams { inputs, parallelism, splits_per_file, ..JobParams::default() }
}

fn run(name: &str, content: &'static [u8], parallelism: u32, splits: u32) -> BTreeMap<String, Vec<String>> {
    let job = (by_name(name).unwrap().job)(&params(content, parallelism, splits)).unwrap();
    let mut driver = Driver::open(&job, &JobSnapshot::default()).unwrap().file("input", content);
    driver.run(500).unwrap();
    driver.lines
}

#[test]
fn flights_of_january_are_counted_whatever_the_parallelism() {
    for (parallelism, splits) in [(1, 1), (2, 3), (3, 8)] {
        let lines = run("flights", FLIGHTS, parallelism, splits);
        for (sink, column) in [("carriers", 0), ("routes", 1)] {
            let figures: Vec<FlightFigures> =
                lines[sink].iter().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(figures.len(), 27_004);
            let rows: BTreeSet<u64> = figures.iter().map(|f| f.offset).collect();
            assert_eq!(rows.len(), 27_004, "every row once");

            // Independently: one pass over the file, totals per key.
            let mut totals: BTreeMap<String, (u64, u64, u64, i64)> = BTreeMap::new();
            for line in std::str::from_utf8(FLIGHTS).unwrap().lines().skip(1) {
                let fields: Vec<&str> = line.split(',').collect();
                let keys = [fields[9].to_string(), format!("{}-{}", fields[12], fields[13])];
                let total = totals.entry(keys[column].clone()).or_default();
                total.0 += 1;
                if let Ok(delay) = fields[5].parse::<i64>() {
                    total.1 += 1;
                    total.3 += delay;
                }
                total.2 += u64::from(fields[3] == "NA");
            }
            let mut last: BTreeMap<String, FlightFigures> = BTreeMap::new();
            for f in figures {
                assert_eq!(f.mean_delay.is_none(), f.count == 0);
                let before = last.get(&f.key).map_or(0, |f| f.sequence);
                assert_eq!(f.sequence, before + 1, "{}: no gap", f.key);
                last.insert(f.key.clone(), f);
            }
            let found: BTreeMap<String, (u64, u64, u64, i64)> =
                last.iter().map(|(key, f)| (key.clone(), (f.sequence, f.count, f.cancelled, f.delay_sum))).collect();
            assert_eq!(found, totals);
            // Counted in the file by hand: 521 of the 27,004 flights were cancelled.
            assert_eq!(found.values().map(|total| total.2).sum::<u64>(), 521);
            for f in last.values().filter(|f| f.count > 0) {
                #[allow(clippy::cast_precision_loss)]
                let exact = f.delay_sum as f64 / f.count as f64;
                let mean = f.mean_delay.unwrap();
                assert!(mean <= exact + 1e-9 && exact - mean < 0.01 + 1e-9, "{mean} of {exact}");
            }
        }
    }
}

#[test]
fn the_output_of_a_row_is_one_line_of_json() {
    let lines = run("flights", FLIGHTS, 1, 1);
    assert_eq!(
        lines["routes"][0],
        r#"{"key":"EWR-IAH","sequence":1,"count":1,"cancelled":0,"delay_sum":2,"mean_delay":2.0,"split":0,"offset":158}"#
    );
}

#[test]
fn a_row_that_is_no_flight_is_an_error() {
    let origin = Origin { split: 0, offset: 0 };
    let error = |line: &str| parse(origin, line).unwrap_err().into_message();
    assert_eq!(error("1,2,3"), "3 columns where 19 are expected");
    assert!(error("2013,1,1,517,515,soon,830,819,11,UA,1,N,EWR,IAH,227,1400,5,15,x").contains("dep_delay \"soon\""));
    assert!(error("\"a\"").contains("quoted"));
    assert!(parse(origin, "").unwrap().is_none());
}

#[test]
fn a_missing_departure_is_a_cancellation_however_it_is_written() {
    let origin = Origin { split: 0, offset: 0 };
    for missing in ["NA", ""] {
        let row = format!("2013,1,1,{missing},1630,{missing},NA,1815,NA,EV,4308,N18120,EWR,RDU,NA,416,16,30,x");
        let flight = parse(origin, &row).unwrap().unwrap();
        assert!(flight.cancelled);
        assert_eq!(flight.delay, None);
        assert_eq!(flight.route, "EWR-RDU");
    }
    let flew = "2013,1,1,517,515,-2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,x";
    let flight = parse(origin, flew).unwrap().unwrap();
    assert_eq!((flight.cancelled, flight.delay), (false, Some(-2)));
}

#[test]
fn words_of_any_script_are_counted() {
    let text = "Der Fluß, der fluß — 川!\r\nthe end; THE END.\n\n42 42".as_bytes();
    assert_eq!(words("Der Fluß, der—川!").collect::<Vec<_>>(), ["der", "fluß", "der", "川"]);
    for (parallelism, splits) in [(1, 1), (3, 5)] {
        let lines = run("wordcount", text, parallelism, splits);
        let mut last = BTreeMap::new();
        for line in &lines["words"] {
            let word: WordCount = serde_json::from_str(line).unwrap();
            assert_eq!(last.insert(word.word, word.count).unwrap_or(0) + 1, word.count);
        }
        let expected = [("der", 2), ("fluß", 2), ("川", 1), ("the", 2), ("end", 2), ("42", 2)];
        assert_eq!(last, expected.map(|(word, count)| (word.to_string(), count)).into());
    }
}

#[test]
fn jobs_are_found_by_name_and_refuse_bad_parameters() {
    assert!(by_name("nothing").is_none());
    for job in ALL {
        assert_eq!(by_name(job.name).unwrap().name, job.name);
        assert!(!job.description.contains('\n') && !job.description.is_empty());
        let built = (job.job)(&params(b"x\n", 2, 2)).unwrap();
        assert_eq!(built.name, job.name);
        let error = |change: fn(&mut JobParams)| {
            let mut params = params(b"x\n", 2, 2);
            change(&mut params);
            (job.job)(&params).unwrap_err()
        };
        assert_eq!(error(|p| p.inputs.clear()), JobError::NoSplits("lines".into()));
        assert_eq!(error(|p| p.parallelism = 0), JobError::ZeroParallelism("lines".into()));
        assert!(matches!(error(|p| p.splits_per_file = 0), JobError::Parameters(_)));
        assert!(matches!(error(|p| p.records_per_second = Some(-1.0)), JobError::BadRate { .. }));
    }
}

#[test]
fn parameters_survive_serialization() {
    let mut params = params(b"x\n", 2, 2);
    params.records_per_second = Some(12.5);
    let text = serde_json::to_string(&params).unwrap();
    assert_eq!(serde_json::from_str::<JobParams>(&text).unwrap(), params);
}
