//! Input files: read by range, cut off at their end.

use runtime::platform::StoreError;

use super::{INPUT, Stage};

pub async fn inputs_are_read_by_range(stage: Stage) {
    let length = INPUT.len() as u64;
    for platform in [&stage.here, &stage.there] {
        let inputs = &platform.inputs;
        assert_eq!(inputs.length(&stage.input).await, Ok(length));
        assert_eq!(&inputs.read(&stage.input, 0..length).await.expect("all")[..], INPUT);
        assert_eq!(&inputs.read(&stage.input, 5..13).await.expect("a part")[..], &INPUT[5..13]);
        assert_eq!(&inputs.read(&stage.input, 5..1 << 40).await.expect("cut off")[..], &INPUT[5..]);
        assert!(inputs.read(&stage.input, length..length + 10).await.expect("behind the end").is_empty());
        assert!(inputs.read(&stage.input, length + 5..length + 10).await.expect("far behind the end").is_empty());
        assert_eq!(inputs.length(&stage.no_input).await, Err(StoreError::Absent));
        assert_eq!(inputs.read(&stage.no_input, 0..1).await, Err(StoreError::Absent));
    }
}
