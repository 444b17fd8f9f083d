// SPDX-License-Identifier: GPL-2.0-only

//! The kernel crate's list, with what is spelled differently from one kernel to another.
//!
//! C header: [`include/linux/list.h`](srctree/include/linux/list.h)

pub(crate) use kernel::list::{
    List,
    ListArc,
    ListItem,
    ListLinks, //
};

/// Lets a type with a field of type [`ListLinks`] be put on a [`List`].
///
/// # Examples
///
/// ```ignore
/// list_item!(Item, links);
/// ```
macro_rules! list_item {
    ($item:ident, $links:ident) => {
        kernel::list::impl_list_arc_safe! {
            impl ListArcSafe<0> for $item { untracked; }
        }

        #[cfg(not(linux_6_12))]
        kernel::list::impl_list_item! {
            impl ListItem<0> for $item { using ListLinks { self.$links }; }
        }

        #[cfg(linux_6_12)]
        kernel::list::impl_has_list_links! {
            impl HasListLinks<0> for $item { self.$links }
        }

        #[cfg(linux_6_12)]
        kernel::list::impl_list_item! {
            impl ListItem<0> for $item { using ListLinks; }
        }
    };
}
pub(crate) use list_item;

/// Takes the first item that matches off the list.
#[cfg(not(linux_6_12))]
pub(crate) fn remove_first<T: ListItem<0>>(
    list: &mut List<T>,
    matches: impl Fn(&T) -> bool,
) -> Option<ListArc<T>> {
    let mut cursor = list.cursor_front();
    while let Some(item) = cursor.peek_next() {
        if matches(&item) {
            return Some(item.remove());
        }
        cursor.move_next();
    }
    None
}

/// Takes the first item that matches off the list.
#[cfg(linux_6_12)]
pub(crate) fn remove_first<T: ListItem<0>>(
    list: &mut List<T>,
    matches: impl Fn(&T) -> bool,
) -> Option<ListArc<T>> {
    let mut cursor = list.cursor_front();
    while let Some(item) = cursor {
        if matches(&item.current()) {
            return Some(item.remove());
        }
        cursor = item.next();
    }
    None
}
