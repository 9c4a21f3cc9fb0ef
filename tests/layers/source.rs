//! What a source file names: every path in its code, its imports, its macros and its attributes, resolved to the crate's root.
//!
//! Owns the parsing and nothing of the rules: it says which module of the crate, or which other crate, each line names, and
//! whether the program or only its tests name it. Start at [`read`]; the rules are in `tests/layers.rs`.

use std::collections::{HashMap, HashSet};

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::{
    Attribute, File, Item, ItemMod, ItemUse, Macro, Meta, Path, UseTree,
    spanned::Spanned,
    visit::{self, Visit},
};

/// Whether code runs in the program or only in its tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    Always,
    InTests,
}

/// A path that a line names, from the crate's root (`crate`, …) or from another crate's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub path: Vec<String>,
    pub line: usize,
    pub runs: Runs,
}

/// What is known of one source file.
#[derive(Debug)]
pub struct Source {
    /// Its path below the package, with `/`.
    pub file: String,
    /// Its module, without `crate`: empty for the root.
    pub module: Vec<String>,
    pub names: Vec<Named>,
    /// Macros that it calls, by their last segment.
    pub macros: Vec<Named>,
    /// Methods that it calls without arguments, by name.
    pub bare_calls: Vec<Named>,
    /// Modules in other files that it declares for tests alone.
    pub test_modules: Vec<Vec<String>>,
    pub lines: usize,
    pub has_doc: bool,
}

/// Parses one file, given its path below the package and its text.
pub fn read(file: &str, text: &str) -> Result<Source, String> {
    let parsed = syn::parse_file(text).map_err(|error| format!("{file}: does not parse: {error}"))?;
    let module = module_of(file);
    let mut reader = Reader::new(module.clone());
    reader.enter(&parsed.items);
    reader.visit_file(&parsed);
    Ok(Source {
        file: file.to_owned(),
        module,
        names: reader.names,
        macros: reader.macros,
        bare_calls: reader.bare_calls,
        test_modules: reader.test_modules,
        lines: text.lines().count(),
        has_doc: has_inner_doc(&parsed),
    })
}

/// `src/edge/http/mod.rs` is `edge::http`; `src/lib.rs` and `src/main.rs` are the root.
fn module_of(file: &str) -> Vec<String> {
    let below = file.strip_prefix("src/").unwrap_or(file);
    let mut parts: Vec<String> = below.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

fn has_inner_doc(file: &File) -> bool {
    file.attrs
        .iter()
        .any(|attr| attr.path().is_ident("doc") && matches!(attr.style, syn::AttrStyle::Inner(_)))
}

/// What a module's own names stand for.
#[derive(Default)]
struct Scope {
    imports: HashMap<String, Vec<String>>,
    children: HashSet<String>,
}

struct Reader {
    module: Vec<String>,
    scopes: Vec<Scope>,
    test_depth: usize,
    names: Vec<Named>,
    macros: Vec<Named>,
    bare_calls: Vec<Named>,
    test_modules: Vec<Vec<String>>,
}

impl Reader {
    fn new(module: Vec<String>) -> Self {
        Self {
            module,
            scopes: Vec::new(),
            test_depth: 0,
            names: Vec::new(),
            macros: Vec::new(),
            bare_calls: Vec::new(),
            test_modules: Vec::new(),
        }
    }

    /// Learns a module's imports and children before its code is read, for they hold above their own line too.
    fn enter(&mut self, items: &[Item]) {
        let mut scope = Scope::default();
        for item in items {
            if let Item::Mod(child) = item {
                scope.children.insert(child.ident.to_string());
            }
        }
        self.scopes.push(scope);
        for item in items {
            if let Item::Use(import) = item {
                for (path, name) in leaves(import) {
                    let path = self.resolve(&path);
                    let scope = self.scopes.last_mut().expect("a scope was pushed above");
                    scope.imports.insert(name, path);
                }
            }
        }
    }

    fn runs(&self) -> Runs {
        if self.test_depth == 0 {
            Runs::Always
        } else {
            Runs::InTests
        }
    }

    fn resolve(&self, path: &[String]) -> Vec<String> {
        let rooted = |module: &[String], rest: &[String]| {
            let root = std::iter::once("crate".to_owned());
            root.chain(module.iter().cloned()).chain(rest.iter().cloned()).collect()
        };
        let supers = path.iter().take_while(|part| *part == "super").count();
        if supers > 0 {
            let depth = self.module.len().saturating_sub(supers);
            return rooted(&self.module[..depth], &path[supers..]);
        }
        match path[0].as_str() {
            "crate" | "weft" => rooted(&[], &path[1..]),
            "self" => rooted(&self.module, &path[1..]),
            first => match self.scopes.last() {
                Some(scope) if scope.imports.contains_key(first) => {
                    let mut whole = scope.imports[first].clone();
                    whole.extend_from_slice(&path[1..]);
                    whole
                }
                Some(scope) if scope.children.contains(first) => rooted(&self.module, path),
                _ => path.to_vec(),
            },
        }
    }

    fn name(&mut self, path: &[String], span: Span) {
        let named = Named {
            path: self.resolve(path),
            line: span.start().line,
            runs: self.runs(),
        };
        self.names.push(named);
    }

    /// Paths in a macro's or an attribute's tokens, which syn leaves unparsed.
    fn scan(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut start = Span::call_site();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) if colons == 2 && !path.is_empty() => {
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Ident(ident) => {
                    self.scanned(&mut path, start);
                    start = ident.span();
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Group(group) => {
                    // `crate::{a, b}` inside a macro: each leaf hangs on what stands before the brace.
                    if colons == 2 && group.delimiter() == Delimiter::Brace && !path.is_empty() {
                        self.hang(&path, group.stream(), start);
                        path.clear();
                    }
                    self.scanned(&mut path, start);
                    self.scan(group.stream());
                    colons = 0;
                }
                TokenTree::Literal(literal) => {
                    self.scanned(&mut path, start);
                    self.literal(&literal.to_string(), literal.span());
                    colons = 0;
                }
                TokenTree::Punct(_) => {
                    self.scanned(&mut path, start);
                    colons = 0;
                }
            }
        }
        self.scanned(&mut path, start);
    }

    fn hang(&mut self, base: &[String], tokens: TokenStream, span: Span) {
        for token in tokens {
            if let TokenTree::Ident(leaf) = token {
                let mut whole = base.to_vec();
                whole.push(leaf.to_string());
                self.name(&whole, span);
            }
        }
    }

    fn scanned(&mut self, path: &mut Vec<String>, span: Span) {
        if path.len() > 1 {
            self.name(path, span);
        }
        path.clear();
    }

    /// `#[serde(with = "crate::x")]` names a module too.
    fn literal(&mut self, text: &str, span: Span) {
        let text = text.trim_matches('"');
        if !(text.starts_with("crate::") || text.starts_with("super::")) || text.contains(char::is_whitespace) {
            return;
        }
        let path: Vec<String> = text.split("::").map(str::to_owned).collect();
        self.name(&path, span);
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        let for_tests = usize::from(attributes(item).iter().any(is_cfg_test));
        self.test_depth += for_tests;
        visit::visit_item(self, item);
        self.test_depth -= for_tests;
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.module.push(item.ident.to_string());
        match &item.content {
            Some((_, items)) => {
                self.enter(items);
                visit::visit_item_mod(self, item);
                self.scopes.pop();
            }
            None if self.test_depth > 0 => self.test_modules.push(self.module.clone()),
            None => {}
        }
        self.module.pop();
    }

    fn visit_item_use(&mut self, import: &'ast ItemUse) {
        for (path, _) in leaves(import) {
            self.name(&path, import.span());
        }
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1 {
            self.name(&segments, path.span());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        if let Some(last) = call.path.segments.last() {
            let named = Named {
                path: vec![last.ident.to_string()],
                line: call.span().start().line,
                runs: self.runs(),
            };
            self.macros.push(named);
        }
        self.scan(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.scan(list.tokens.clone());
        }
        visit::visit_attribute(self, attribute);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        if call.args.is_empty() {
            let named = Named {
                path: vec![call.method.to_string()],
                line: call.method.span().start().line,
                runs: self.runs(),
            };
            self.bare_calls.push(named);
        }
        visit::visit_expr_method_call(self, call);
    }
}

/// The paths that an import brings, each with the name that it has here; a glob ends at the module that it opens.
fn leaves(import: &ItemUse) -> Vec<(Vec<String>, String)> {
    let mut found = Vec::new();
    collect(&import.tree, &mut Vec::new(), &mut found);
    found
}

fn collect(tree: &UseTree, prefix: &mut Vec<String>, found: &mut Vec<(Vec<String>, String)>) {
    match tree {
        UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            collect(&path.tree, prefix, found);
            prefix.pop();
        }
        UseTree::Group(group) => group.items.iter().for_each(|item| collect(item, prefix, found)),
        UseTree::Name(name) => leaf(prefix, &name.ident.to_string(), &name.ident.to_string(), found),
        UseTree::Rename(rename) => leaf(prefix, &rename.ident.to_string(), &rename.rename.to_string(), found),
        UseTree::Glob(_) if prefix.is_empty() => {}
        UseTree::Glob(_) => found.push((prefix.clone(), "*".to_owned())),
    }
}

fn leaf(prefix: &[String], last: &str, name: &str, found: &mut Vec<(Vec<String>, String)>) {
    let mut whole = prefix.to_vec();
    let name = if last == "self" {
        prefix.last().cloned().unwrap_or_default()
    } else {
        whole.push(last.to_owned());
        name.to_owned()
    };
    if !whole.is_empty() {
        found.push((whole, name));
    }
}

/// `#[cfg(test)]`, `#[cfg(all(test, …))]`; not `#[cfg(not(test))]`.
fn is_cfg_test(attribute: &Attribute) -> bool {
    let Meta::List(list) = &attribute.meta else {
        return false;
    };
    let text = list.tokens.to_string();
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    list.path.is_ident("cfg") && words.into_iter().any(|word| word == "test") && !text.contains("not (test)")
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
