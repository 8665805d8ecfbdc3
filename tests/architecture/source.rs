//! The source of the crate as far as its structure is concerned: modules, imports, the paths that
//! expressions name, and the lengths of files and functions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree};

/// A module by its names from the root of the crate, which has none.
pub type Module = Vec<String>;

/// A path: its first segment is `crate` or the name of another crate, once it is absolute.
pub type Names = Vec<String>;

/// A file of `src`.
#[derive(Debug, Default)]
pub struct File {
    pub module: Module,
    pub lines: usize,
    /// Its functions and their lengths, from the word `fn` to the closing brace.
    pub functions: Vec<(String, usize)>,
    /// How often the keyword `unsafe` occurs.
    pub unsafes: usize,
    /// The absolute paths that it names outside its tests.
    pub paths: BTreeSet<Names>,
}

/// All files, by their paths within `src`.
#[derive(Debug, Default)]
pub struct Tree {
    pub files: BTreeMap<String, File>,
    /// The file of each module; inline modules are in the file that contains them.
    modules: BTreeMap<Module, String>,
    /// The names that each module imports, under which its children find them.
    imports: BTreeMap<Module, BTreeMap<String, Names>>,
}

impl Tree {
    /// Reads a folder.
    pub fn read(src: &Path) -> Self {
        let mut sources = Vec::new();
        collect(src, "", &mut sources);
        Self::parse(sources.iter().map(|(name, text)| (&**name, &**text)))
    }

    /// Parses files that are given by name and text.
    pub fn parse<'a>(sources: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut tree = Self::default();
        let mut readers = Vec::new();
        let mut tests = BTreeSet::new();
        for (name, text) in sources {
            let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            let mut reader = Reader::new(module_of(name));
            for token in text.parse::<TokenStream>().unwrap() {
                reader.find_unsafe(token);
            }
            reader.visit_file(&parsed);
            reader.file.lines = text.lines().count();
            tests.append(&mut reader.tests);
            readers.push((name.to_owned(), reader));
        }
        // A file that is a test as a whole names nothing that counts.
        for (_, reader) in &mut readers {
            if (1..=reader.file.module.len()).any(|n| tests.contains(&reader.file.module[..n])) {
                reader.raw.clear();
                reader.imports.clear();
            }
        }
        for (name, reader) in &mut readers {
            for module in &reader.modules {
                tree.modules.insert(module.clone(), name.clone());
            }
            tree.modules
                .insert(reader.file.module.clone(), name.clone());
        }
        for (name, reader) in readers {
            for (module, name, path) in &reader.imports {
                let path = tree.absolute(module, path);
                let names = tree.imports.entry(module.clone()).or_default();
                names.insert(name.clone(), path);
            }
            let raw = reader.raw.clone();
            tree.files.insert(name.clone(), reader.file);
            let paths = raw
                .into_iter()
                .map(|(module, path)| tree.absolute(&module, &path))
                .collect();
            if let Some(file) = tree.files.get_mut(&name) {
                file.paths = paths;
            }
        }
        tree
    }

    /// Makes a path of `module` absolute.
    fn absolute(&self, module: &Module, path: &[String]) -> Names {
        let mut at = module.clone();
        let mut rest = path;
        let mut is_local = false;
        while let Some((first, others)) = rest.split_first() {
            match first.as_str() {
                "crate" | "smol_dhcp_proxy" => at.clear(),
                "super" => drop(at.pop()),
                "self" => {}
                _ => break,
            }
            is_local = true;
            rest = others;
        }
        if !is_local && let Some(first) = rest.first() {
            let mut child = module.clone();
            child.push(first.clone());
            let import = self.imports.get(module).and_then(|names| names.get(first));
            if let Some(import) = import {
                return [import, &rest[1..]].concat();
            } else if !self.modules.contains_key(&child) {
                return rest.to_vec();
            }
        }
        [&["crate".to_owned()][..], &at, rest].concat()
    }

    /// Returns the file that defines what an absolute path names: imports and re-exports on the way
    /// are followed. `None` is another crate's.
    pub fn file_of(&self, path: &[String]) -> Option<&str> {
        self.follow(path, 16)
    }

    fn follow(&self, path: &[String], fuel: u32) -> Option<&str> {
        let (first, names) = path.split_first()?;
        if first != "crate" || fuel == 0 {
            return None;
        }
        let mut module = Module::new();
        for (place, name) in names.iter().enumerate() {
            module.push(name.clone());
            if self.modules.contains_key(&module) {
                continue;
            }
            module.pop();
            let import = self.imports.get(&module).and_then(|all| all.get(name));
            if let Some(import) = import {
                return self.follow(&[import, &names[place + 1..]].concat(), fuel - 1);
            }
            break;
        }
        self.modules.get(&module).map(String::as_str)
    }
}

/// Reads all Rust files of a folder and of those in it.
fn collect(folder: &Path, within: &str, sources: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            collect(&path, &format!("{within}{name}/"), sources);
        } else if name.ends_with(".rs") {
            sources.push((
                format!("{within}{name}"),
                fs::read_to_string(&path).unwrap(),
            ));
        }
    }
}

/// Returns the module of a file. The program is a module beside the library's.
fn module_of(name: &str) -> Module {
    let name = name.strip_suffix(".rs").unwrap_or(name);
    let name = name.strip_suffix("/mod").unwrap_or(name);
    let names = name.split('/').filter(|name| *name != "lib");
    names.map(str::to_owned).collect()
}

/// Reads one file.
struct Reader {
    file: File,
    /// The module that is being read.
    at: Module,
    /// Whether that is within a test.
    is_test: bool,
    /// Inline modules.
    modules: Vec<Module>,
    /// Modules that are built for tests alone.
    tests: BTreeSet<Module>,
    /// The module of each import, the name that it makes known, and its path.
    imports: Vec<(Module, String, Names)>,
    /// The module of each path, and the path as written.
    raw: Vec<(Module, Names)>,
}

impl Reader {
    fn new(module: Module) -> Self {
        Self {
            at: module.clone(),
            file: File {
                module,
                ..File::default()
            },
            is_test: false,
            modules: Vec::new(),
            tests: BTreeSet::new(),
            imports: Vec::new(),
            raw: Vec::new(),
        }
    }

    fn find_unsafe(&mut self, token: TokenTree) {
        match token {
            TokenTree::Ident(ident) if ident == "unsafe" => {
                self.file.unsafes += 1;
            }
            TokenTree::Group(group) => {
                for token in group.stream() {
                    self.find_unsafe(token);
                }
            }
            _ => {}
        }
    }

    fn name(&mut self, path: Names) {
        if !self.is_test {
            self.raw.push((self.at.clone(), path));
        }
    }

    fn import(&mut self, tree: &UseTree, before: &[String]) {
        let with = |name: String| [before, &[name][..]].concat();
        match tree {
            UseTree::Path(path) => self.import(&path.tree, &with(path.ident.to_string())),
            UseTree::Name(name) if name.ident == "self" => {
                let known_as = before.last().cloned().unwrap_or_default();
                self.add_import(known_as, before.to_vec());
            }
            UseTree::Name(name) => {
                let known_as = name.ident.to_string();
                self.add_import(known_as.clone(), with(known_as));
            }
            UseTree::Rename(rename) => {
                let path = match &rename.ident {
                    ident if ident == "self" => before.to_vec(),
                    ident => with(ident.to_string()),
                };
                self.add_import(rename.rename.to_string(), path);
            }
            UseTree::Glob(_) => self.name(with("*".to_owned())),
            UseTree::Group(group) => {
                for item in &group.items {
                    self.import(item, before);
                }
            }
        }
    }

    fn add_import(&mut self, known_as: String, path: Names) {
        if !self.is_test {
            self.imports.push((self.at.clone(), known_as, path.clone()));
            self.name(path);
        }
    }

    /// Finds the paths among the tokens of a macro call: names joined by `::`.
    fn find_paths(&mut self, tokens: TokenStream) {
        let mut paths = vec![Names::new()];
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        paths.push(Names::new());
                    }
                    paths.last_mut().unwrap().push(ident.to_string());
                    colons = 0;
                }
                other => {
                    paths.push(Names::new());
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.find_paths(group.stream());
                    }
                }
            }
        }
        for path in paths.into_iter().filter(|path| path.len() > 1) {
            self.name(path);
        }
    }

    fn add_function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let start = signature.fn_token.span.start().line;
        let end = block.brace_token.span.close().end().line;
        let name = signature.ident.to_string();
        self.file.functions.push((name, end - start + 1));
    }

    /// Reads what `read` reads, as a test if the attributes say so.
    fn within(&mut self, attributes: &[Attribute], read: impl FnOnce(&mut Self)) {
        let before = self.is_test;
        self.is_test |= attributes.iter().any(is_test);
        read(self);
        self.is_test = before;
    }
}

/// Tells whether an attribute leaves its item to tests: `cfg(test)` or `cfg(all(test, ..))`.
fn is_test(attribute: &Attribute) -> bool {
    let syn::Meta::List(list) = &attribute.meta else {
        return false;
    };
    let condition = list.tokens.to_string();
    list.path.is_ident("cfg") && (condition == "test" || condition.starts_with("all (test"))
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

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        self.within(attributes(item), |reader| visit::visit_item(reader, item));
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.at.push(item.ident.to_string());
        if self.is_test {
            self.tests.insert(self.at.clone());
        }
        if item.content.is_some() {
            self.modules.push(self.at.clone());
        }
        visit::visit_item_mod(self, item);
        self.at.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.import(&item.tree, &[]);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add_function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add_function(&item.sig, &item.block);
        self.within(&item.attrs, |reader| {
            visit::visit_impl_item_fn(reader, item)
        });
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.add_function(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let segments = path.segments.iter().map(|part| part.ident.to_string());
            self.name(segments.collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.find_paths(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}
