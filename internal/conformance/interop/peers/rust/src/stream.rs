//! A stream stored by this worker.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use iii_helpers::stream::{
    StreamDeleteInput, StreamDeleteResult, StreamGetInput, StreamListGroupsInput, StreamListInput, StreamSetInput,
    StreamSetResult, StreamUpdateInput, StreamUpdateResult,
};
use iii_sdk::{Error, IStream};
use serde_json::Value;

/// Shelf keeps items by group and id.
#[derive(Default)]
pub struct Shelf(Mutex<BTreeMap<(String, String), Value>>);

#[async_trait]
impl IStream for Shelf {
    async fn get(&self, i: StreamGetInput) -> Result<Option<Value>, Error> {
        Ok(self.0.lock().unwrap().get(&(i.group_id, i.item_id)).cloned())
    }

    async fn set(&self, i: StreamSetInput) -> Result<Option<StreamSetResult>, Error> {
        let old_value = self.0.lock().unwrap().insert((i.group_id, i.item_id), i.data.clone());
        Ok(Some(StreamSetResult { old_value, new_value: i.data }))
    }

    async fn delete(&self, i: StreamDeleteInput) -> Result<StreamDeleteResult, Error> {
        Ok(StreamDeleteResult { old_value: self.0.lock().unwrap().remove(&(i.group_id, i.item_id)) })
    }

    async fn list(&self, i: StreamListInput) -> Result<Vec<Value>, Error> {
        let items = self.0.lock().unwrap();
        Ok(items.iter().filter(|((group, _), _)| *group == i.group_id).map(|(_, v)| v.clone()).collect())
    }

    async fn list_groups(&self, _: StreamListGroupsInput) -> Result<Vec<String>, Error> {
        let mut groups: Vec<String> = self.0.lock().unwrap().keys().map(|(group, _)| group.clone()).collect();
        groups.dedup();
        Ok(groups)
    }

    async fn update(&self, _: StreamUpdateInput) -> Result<Option<StreamUpdateResult>, Error> {
        Ok(None)
    }
}
