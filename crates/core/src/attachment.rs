//! How a table is attached: the settings that the arguments of its triggers hold.
//!
//! The arguments travel with the table through rename, dump and restore, so they are the one place
//! where these settings are kept. Columns stand there by name: a number means another column after
//! a restore, and in a partition. When a column is renamed or dropped, [`Attachment::rename_column`]
//! and [`Attachment::drop_column`] give the arguments that go on meaning the same.
//!
//! Since 0.3 each argument is `key=value`:
//!
//! ```text
//! webhooks.emit_changes('object=memory', 'id=id', 'exclude=password', 'ignore=last_seen')
//! ```
//!
//! Up to 0.2 arguments had places: object, id column, owner column or '', soft-delete column or '',
//! and then each excluded column. Such triggers go on working, and keep their form.

/// The settings of an attached table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attachment {
    /// What a row is called, as in `memory.created`.
    pub object: String,
    /// The column that becomes `data.id`.
    pub id_column: String,
    /// The column that holds the owner of a row.
    pub owner_column: Option<String>,
    /// The column that is NULL while a row is not deleted.
    pub soft_delete_column: Option<String>,
    /// Columns that are never sent.
    pub exclude_columns: Vec<String>,
    /// Columns that are sent, but whose change alone emits nothing.
    pub ignore_columns: Vec<String>,
    /// Whether columns of pgvector's types are sent.
    pub include_vectors: bool,
    /// How the arguments are written.
    pub form: Form,
}

/// How the arguments of the triggers are written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Form {
    /// By place, as 0.1 and 0.2 did. Vectors are sent and no column is ignored.
    Places,
    /// `key=value`, since 0.3.
    #[default]
    Keys,
}

impl Attachment {
    /// Reads the arguments of a trigger. What is missing has the default of `attach()`; a key that
    /// this version does not know is passed over.
    #[must_use]
    pub fn parse<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Self {
        let arguments: Vec<&str> = arguments.into_iter().collect();
        // An object's name holds no '='.
        if arguments.first().is_some_and(|first| first.contains('=')) {
            Self::parse_keys(&arguments)
        } else {
            Self::parse_places(&arguments)
        }
    }

    fn parse_places(arguments: &[&str]) -> Self {
        let at = |place: usize| {
            arguments
                .get(place)
                .filter(|text| !text.is_empty())
                .map(|text| (*text).to_owned())
        };
        let excluded = arguments.get(4..).unwrap_or_default();
        Self {
            object: at(0).unwrap_or_else(|| "memory".to_owned()),
            id_column: at(1).unwrap_or_else(|| "id".to_owned()),
            owner_column: at(2),
            soft_delete_column: at(3),
            exclude_columns: excluded.iter().map(|text| (*text).to_owned()).collect(),
            ignore_columns: Vec::new(),
            include_vectors: true,
            form: Form::Places,
        }
    }

    fn parse_keys(arguments: &[&str]) -> Self {
        let mut settings = Self {
            object: "memory".to_owned(),
            id_column: "id".to_owned(),
            owner_column: None,
            soft_delete_column: None,
            exclude_columns: Vec::new(),
            ignore_columns: Vec::new(),
            include_vectors: false,
            form: Form::Keys,
        };
        for (key, value) in arguments.iter().filter_map(|text| text.split_once('=')) {
            let value = value.to_owned();
            match key {
                "object" => settings.object = value,
                "id" => settings.id_column = value,
                "owner" => settings.owner_column = Some(value),
                "soft_delete" => settings.soft_delete_column = Some(value),
                "exclude" => settings.exclude_columns.push(value),
                "ignore" => settings.ignore_columns.push(value),
                "vectors" => settings.include_vectors = value == "include",
                _ => {}
            }
        }
        settings
    }

    /// The arguments that [`parse`](Self::parse) reads.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let optional = |column: &Option<String>| column.clone().unwrap_or_default();
        if self.form == Form::Places {
            let mut arguments = vec![
                self.object.clone(),
                self.id_column.clone(),
                optional(&self.owner_column),
                optional(&self.soft_delete_column),
            ];
            arguments.extend(self.exclude_columns.iter().cloned());
            return arguments;
        }
        let pair = |key: &str, value: &str| format!("{key}={value}");
        let mut arguments = vec![pair("object", &self.object), pair("id", &self.id_column)];
        let named = [
            ("owner", &self.owner_column),
            ("soft_delete", &self.soft_delete_column),
        ];
        for (key, column) in named {
            arguments.extend(column.iter().map(|column| pair(key, column)));
        }
        for (key, columns) in [
            ("exclude", &self.exclude_columns),
            ("ignore", &self.ignore_columns),
        ] {
            arguments.extend(columns.iter().map(|column| pair(key, column)));
        }
        if self.include_vectors {
            arguments.push(pair("vectors", "include"));
        }
        arguments
    }

    /// A column has another name now. Returns whether a setting named it.
    pub fn rename_column(&mut self, old: &str, new: &str) -> bool {
        let mut found = false;
        let columns = std::iter::once(&mut self.id_column)
            .chain(&mut self.owner_column)
            .chain(&mut self.soft_delete_column)
            .chain(&mut self.exclude_columns)
            .chain(&mut self.ignore_columns);
        for column in columns.filter(|column| *column == old) {
            new.clone_into(column);
            found = true;
        }
        found
    }

    /// A column is gone. Excluded and ignored ones leave their list, so that a new column of that
    /// name is an ordinary one. The id, owner and soft-delete columns keep their name: without
    /// them events are cut or not sent, and an event must not change its meaning silently.
    /// Returns whether a setting has changed.
    pub fn drop_column(&mut self, name: &str) -> bool {
        let before = self.exclude_columns.len() + self.ignore_columns.len();
        self.exclude_columns.retain(|column| column != name);
        self.ignore_columns.retain(|column| column != name);
        self.exclude_columns.len() + self.ignore_columns.len() != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Attachment {
        Attachment {
            object: "note".to_owned(),
            id_column: "key".to_owned(),
            owner_column: Some("user=id".to_owned()),
            soft_delete_column: Some("deleted_at".to_owned()),
            exclude_columns: vec!["password".to_owned(), "a=b".to_owned()],
            ignore_columns: vec!["seen".to_owned()],
            include_vectors: true,
            form: Form::Keys,
        }
    }

    fn parse(arguments: &[String]) -> Attachment {
        Attachment::parse(arguments.iter().map(String::as_str))
    }

    #[test]
    fn arguments_are_read_as_they_were_written() {
        assert_eq!(
            keys().arguments(),
            [
                "object=note",
                "id=key",
                "owner=user=id",
                "soft_delete=deleted_at",
                "exclude=password",
                "exclude=a=b",
                "ignore=seen",
                "vectors=include"
            ]
        );
        assert_eq!(parse(&keys().arguments()), keys());
        let places = Attachment::parse(["memory", "id", "", "gone", "x", "y"]);
        assert_eq!(places.owner_column, None);
        assert_eq!(places.exclude_columns, ["x", "y"]);
        assert!(places.include_vectors);
        assert_eq!(places.arguments(), ["memory", "id", "", "gone", "x", "y"]);
    }

    #[test]
    fn what_is_missing_has_the_default_of_attach() {
        for arguments in [&[][..], &["memory"][..], &["object=memory"][..]] {
            let settings = Attachment::parse(arguments.iter().copied());
            assert_eq!((&*settings.object, &*settings.id_column), ("memory", "id"));
            assert_eq!(settings.owner_column, None);
            assert!(settings.exclude_columns.is_empty());
        }
        assert!(!Attachment::parse(["object=memory", "later=1"]).include_vectors);
    }

    #[test]
    fn a_renamed_column_keeps_every_role() {
        let mut settings = keys();
        assert!(settings.rename_column("password", "pwd"));
        assert!(settings.rename_column("key", "id"));
        assert!(settings.rename_column("user=id", "owner"));
        assert!(settings.rename_column("seen", "last_seen"));
        assert!(!settings.rename_column("content", "text"));
        assert_eq!(settings.exclude_columns, ["pwd", "a=b"]);
        assert_eq!(settings.id_column, "id");
        assert_eq!(settings.owner_column.as_deref(), Some("owner"));
        assert_eq!(settings.ignore_columns, ["last_seen"]);
        let mut places = Attachment::parse(["memory", "id", "", "", "x"]);
        assert!(places.rename_column("x", "y"));
        assert_eq!(places.arguments(), ["memory", "id", "", "", "y"]);
    }

    #[test]
    fn a_dropped_column_leaves_the_lists_alone() {
        let mut settings = keys();
        assert!(settings.drop_column("password"));
        assert!(settings.drop_column("seen"));
        assert!(!settings.drop_column("key"));
        assert!(!settings.drop_column("deleted_at"));
        assert_eq!(settings.exclude_columns, ["a=b"]);
        assert!(settings.ignore_columns.is_empty());
        assert_eq!(settings.id_column, "key");
    }
}
