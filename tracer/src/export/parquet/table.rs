//! One Parquet file: rows are gathered by column, and written a row group at a time.

use std::{path::PathBuf, sync::Arc};

use ::parquet::{
    basic::{Compression, ZstdLevel},
    data_type::{BoolType, ByteArray, ByteArrayType, Int64Type},
    errors::ParquetError,
    file::{
        metadata::KeyValue, properties::WriterProperties, writer::SerializedColumnWriter,
        writer::SerializedFileWriter,
    },
    schema::{parser::parse_message_type, types::TypePtr},
};

use crate::{
    cli::Table,
    export::{
        Trouble,
        columns::{self, Column, Kind, Row, Value},
        output::Draft,
    },
    failure::Failure,
    record::SCHEMA,
};

/// Rows of a row group.
const ROWS: usize = 1 << 16;
/// Bytes of a row group before it is written early: arguments may be long.
const BYTES: usize = 16 << 20;

/// A file being written.
pub struct Writer {
    file: SerializedFileWriter<Draft>,
    columns: &'static [Column],
    /// `time`, `time_ns` and `recording`, then the table's.
    gathered: Vec<Gathered>,
    rows: usize,
    bytes: usize,
}

/// What a row group has in a column.
#[derive(Default)]
struct Gathered {
    longs: Vec<i64>,
    bools: Vec<bool>,
    texts: Vec<ByteArray>,
    defined: Vec<i16>,
    repeated: Vec<i16>,
}

impl Writer {
    /// Begins a file.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(table: Table, path: PathBuf) -> Result<Self, Trouble> {
        let columns = table.columns();
        let about = |key: &str, value: String| KeyValue::new(key.to_string(), value);
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by(concat!("forkscope ", env!("CARGO_PKG_VERSION")).into())
            .set_key_value_metadata(Some(vec![
                about("forkscope.version", env!("CARGO_PKG_VERSION").into()),
                about("forkscope.schema", SCHEMA.to_string()),
                about("forkscope.table", table.name().into()),
            ]))
            .build();
        let draft = Draft::create(&path)?;
        let file = SerializedFileWriter::new(draft, schema(table), Arc::new(properties))
            .map_err(trouble)?;
        let mut gathered = Vec::new();
        gathered.resize_with(3 + columns.len(), Gathered::default);
        Ok(Self { file, columns, gathered, rows: 0, bytes: 0 })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn row(&mut self, time: Option<i64>, recording: &str, row: Row<'_>) -> Result<(), Trouble> {
        let micros = time.map_or(Value::Null, |ns| Value::Long(ns.div_euclid(1000)));
        let common = [micros, time.map_or(Value::Null, Value::Long), Value::Text(recording)];
        for (gathered, (value, optional)) in
            self.gathered.iter_mut().zip(common.into_iter().zip([true, true, false]))
        {
            self.bytes += gathered.add(value, optional);
        }
        for (gathered, column) in self.gathered[3..].iter_mut().zip(self.columns) {
            self.bytes += gathered.add((column.get)(row), column.optional);
        }
        self.rows += 1;
        if self.rows >= ROWS || self.bytes >= BYTES {
            self.group().map_err(trouble)?;
        }
        Ok(())
    }

    fn group(&mut self) -> Result<(), ParquetError> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = self.file.next_row_group()?;
        let kinds = [Kind::Long, Kind::Long, Kind::Text];
        let kinds = kinds.into_iter().chain(self.columns.iter().map(|column| column.kind));
        for (gathered, kind) in self.gathered.iter_mut().zip(kinds) {
            let Some(mut writer) = group.next_column()? else { break };
            gathered.write(&mut writer, kind)?;
            writer.close()?;
            gathered.clear();
        }
        group.close()?;
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }

    /// Ends the file, which has its name from now on.
    ///
    /// # Errors
    /// When the rest cannot be written.
    pub fn finish(mut self) -> Result<(), Trouble> {
        self.group().map_err(trouble)?;
        self.file.into_inner().map_err(trouble)?.finish()?;
        Ok(())
    }
}

impl Gathered {
    /// Adds what a row has; about how many bytes that takes.
    fn add(&mut self, value: Value<'_>, optional: bool) -> usize {
        // What is there stands a level higher where it might not be.
        let there = i16::from(optional);
        let before = self.texts.len();
        match value {
            Value::Null => {
                self.defined.push(0);
                // Used where it is a list that is missing.
                self.repeated.push(0);
            }
            Value::Long(n) => {
                self.longs.push(n);
                self.defined.push(there);
            }
            Value::Bool(yes) => {
                self.bools.push(yes);
                self.defined.push(there);
            }
            Value::Text(text) => {
                self.text(text);
                self.defined.push(there);
            }
            Value::Texts(list) => {
                list.iter().for_each(|text| self.text(text));
                self.list(list.len(), there);
            }
            Value::Longs(points, of) => {
                self.longs.extend(points.iter().map(|p| i64::try_from(of(p)).unwrap_or(i64::MAX)));
                self.list(points.len(), there);
            }
            Value::Measures(measures) => {
                self.text(&columns::measures(measures));
                self.defined.push(there);
            }
        }
        let texts: usize = self.texts[before..].iter().map(|text| text.len() + 32).sum();
        texts + 10
    }

    /// The levels of a list: 0 for none where it is optional, `there` for an empty one.
    fn list(&mut self, n: usize, there: i16) {
        if n == 0 {
            self.defined.push(there);
            self.repeated.push(0);
        }
        for index in 0..n {
            self.defined.push(there + 1);
            self.repeated.push(i16::from(index > 0));
        }
    }

    /// Adds a text; the same one again costs a reference only.
    fn text(&mut self, text: &str) {
        let again = self.texts.last().filter(|last| last.data() == text.as_bytes()).cloned();
        self.texts.push(again.unwrap_or_else(|| ByteArray::from(text)));
    }

    fn write(
        &mut self,
        to: &mut SerializedColumnWriter<'_>,
        kind: Kind,
    ) -> Result<(), ParquetError> {
        let levels = (Some(&*self.defined), Some(&*self.repeated));
        match kind {
            Kind::Long => to.typed::<Int64Type>().write_batch(&self.longs, levels.0, None),
            Kind::Bool => to.typed::<BoolType>().write_batch(&self.bools, levels.0, None),
            Kind::Text => to.typed::<ByteArrayType>().write_batch(&self.texts, levels.0, None),
            Kind::Texts => to.typed::<ByteArrayType>().write_batch(&self.texts, levels.0, levels.1),
            Kind::Longs => to.typed::<Int64Type>().write_batch(&self.longs, levels.0, levels.1),
        }?;
        Ok(())
    }

    fn clear(&mut self) {
        let Self { longs, bools, texts, defined, repeated } = self;
        longs.clear();
        bools.clear();
        texts.clear();
        defined.clear();
        repeated.clear();
    }
}

/// The table's schema, as Parquet has it.
fn schema(table: Table) -> TypePtr {
    let mut text = format!("message {} {{\n", table.name());
    text += "optional int64 time (TIMESTAMP(MICROS,true));\noptional int64 time_ns;\n";
    text += "required binary recording (STRING);\n";
    for column in table.columns() {
        let name = column.name;
        let repetition = if column.optional { "optional" } else { "required" };
        text += &match column.kind {
            Kind::Long => format!("{repetition} int64 {name};\n"),
            Kind::Bool => format!("{repetition} boolean {name};\n"),
            Kind::Text => format!("{repetition} binary {name} (STRING);\n"),
            Kind::Texts | Kind::Longs => {
                let of = if column.kind == Kind::Texts { "binary" } else { "int64" };
                let string = if column.kind == Kind::Texts { " (STRING)" } else { "" };
                format!(
                    "{repetition} group {name} (LIST) {{ repeated group list {{ \
                     required {of} element{string}; }} }}\n"
                )
            }
        };
    }
    let schema = parse_message_type(&(text + "}"));
    Arc::new(schema.expect("the tables are constants, and all of them are tested"))
}

fn trouble(error: ParquetError) -> Trouble {
    match error {
        ParquetError::External(error) => match error.downcast::<std::io::Error>() {
            Ok(error) => (*error).into(),
            Err(error) => failed(&error.to_string()),
        },
        error => failed(&error.to_string()),
    }
}

fn failed(what: &str) -> Trouble {
    let hint = "free some space, or give another place";
    Trouble::Output(Failure::new(
        crate::failure::Why::Failed,
        format!("the output: {what}; {hint}"),
    ))
}
