//! Who has a say in the options of a database, and in which order: predefined options first, then an options factory on top of
//! them; for each of the two, code wins over configuration (`RX/RocksDBStateBackend.java`).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    options::{ColumnFamilyOptions, CompactionStyle, DatabaseOptions, RocksDbOptions},
    predefined::PredefinedOptions,
};

/// The value of a configuration key, as it stands; None: it was not given.
pub type ValueOf<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Changes the options of a database (Flink `ConfigurableOptionsFactory`). It works on plain data, before anything is
/// deployed, so that only the process that reads the configuration needs to know the factory.
pub trait OptionsFactory: Send + Sync {
    /// The factory as the configuration wants it, own keys included. Called once, before the other methods, if the factory
    /// was chosen by its name in a configuration.
    ///
    /// # Errors
    /// What is wrong with a value, naming its key.
    fn configured(&self, value_of: ValueOf<'_>) -> Result<Arc<dyn OptionsFactory>, String>;

    fn database(&self, current: DatabaseOptions) -> DatabaseOptions {
        current
    }

    fn column_family(&self, current: ColumnFamilyOptions) -> ColumnFamilyOptions {
        current
    }
}

/// Flink's name for [`ConfigurableOptions`], and the default.
pub const DEFAULT_FACTORY: &str = "org.apache.flink.contrib.streaming.state.DefaultConfigurableOptionsFactory";

/// The options of `RocksDBConfigurableOptions`, each a key of the configuration; what Flink's default factory applies. None: not
/// given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurableOptions {
    /// `thread.num`.
    pub parallelism: Option<u32>,
    /// `files.open`.
    pub max_open_files: Option<i32>,
    /// `compaction.style`.
    pub compaction_style: Option<CompactionStyle>,
    /// `compaction.level.use-dynamic-size`.
    pub level_compaction_dynamic_level_bytes: Option<bool>,
    /// `compaction.level.target-file-size-base`.
    pub target_file_size_base: Option<u64>,
    /// `compaction.level.max-size-level-base`.
    pub max_bytes_for_level_base: Option<u64>,
    /// `writebuffer.size`.
    pub write_buffer_size: Option<u64>,
    /// `writebuffer.count`.
    pub max_write_buffer_number: Option<u32>,
    /// `writebuffer.number-to-merge`.
    pub min_write_buffer_number_to_merge: Option<u32>,
    /// `block.blocksize`.
    pub block_size: Option<u64>,
    /// `block.cache-size`.
    pub block_cache_size: Option<u64>,
}

/// `over` where it says something.
fn put<T: Copy>(current: &mut Option<T>, over: Option<T>) {
    *current = over.or(*current);
}

impl OptionsFactory for ConfigurableOptions {
    /// The keys are read where all others are.
    fn configured(&self, _value_of: ValueOf<'_>) -> Result<Arc<dyn OptionsFactory>, String> {
        Ok(Arc::new(self.clone()))
    }

    fn database(&self, mut current: DatabaseOptions) -> DatabaseOptions {
        put(&mut current.parallelism, self.parallelism);
        put(&mut current.max_open_files, self.max_open_files);
        current
    }

    fn column_family(&self, mut current: ColumnFamilyOptions) -> ColumnFamilyOptions {
        put(&mut current.compaction_style, self.compaction_style);
        put(&mut current.level_compaction_dynamic_level_bytes, self.level_compaction_dynamic_level_bytes);
        put(&mut current.target_file_size_base, self.target_file_size_base);
        put(&mut current.max_bytes_for_level_base, self.max_bytes_for_level_base);
        put(&mut current.write_buffer_size, self.write_buffer_size);
        put(&mut current.max_write_buffer_number, self.max_write_buffer_number);
        put(&mut current.min_write_buffer_number_to_merge, self.min_write_buffer_number_to_merge);
        if let Some(table) = current.blocks() {
            put(&mut table.block_size, self.block_size);
            put(&mut table.block_cache_size, self.block_cache_size);
        }
        current
    }
}

/// What code and configuration have said.
#[derive(Clone, Copy)]
pub struct Say<'a> {
    pub predefined_in_code: Option<PredefinedOptions>,
    pub predefined_configured: PredefinedOptions,
    pub factory_in_code: Option<&'a dyn OptionsFactory>,
    /// [`ConfigurableOptions`] unless another was named.
    pub factory_configured: &'a dyn OptionsFactory,
}

impl Say<'_> {
    /// The options after everybody was asked.
    pub fn options(self) -> RocksDbOptions {
        let predefined = self.predefined_in_code.unwrap_or(self.predefined_configured).options();
        let factory = self.factory_in_code.unwrap_or(self.factory_configured);
        RocksDbOptions {
            database: factory.database(predefined.database),
            column_family: factory.column_family(predefined.column_family),
        }
    }
}
