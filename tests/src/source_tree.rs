//! The sources as data: files of a crate, their functions and sizes, test code left out.

use std::path::{Path, PathBuf};

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// One source file.
#[derive(Debug)]
pub struct SourceFile {
    /// Path from the top of the checkout.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// Lines outside test modules.
    pub lines: usize,
    /// Functions outside test modules.
    pub functions: Vec<Function>,
    /// Lines that call `unwrap`, outside test modules.
    pub unwraps: Vec<usize>,
}

/// One function.
#[derive(Debug)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Line where it starts.
    pub line: usize,
    /// Lines from its signature to its closing brace.
    pub lines: usize,
}

/// Every Rust file under `folder`, in order of path.
///
/// # Panics
/// Where a file cannot be read or parsed: then it does not compile either.
#[must_use]
pub fn source_files(root: &Path, folder: &str) -> Vec<SourceFile> {
    let mut paths = Vec::new();
    collect(&root.join(folder), &mut paths);
    paths.sort();
    paths.iter().map(|path| read(root, path)).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

#[expect(
    clippy::expect_used,
    reason = "a source file that cannot be parsed cannot be compiled"
)]
fn read(root: &Path, path: &Path) -> SourceFile {
    let inside = path.strip_prefix(root).unwrap_or(path);
    let text = std::fs::read_to_string(path).expect("a source file can be read");
    let tree = syn::parse_file(&text).expect("a source file can be parsed");
    let mut walk = Walk::default();
    let all_tests = is_test_file(inside);
    if !all_tests {
        walk.visit_file(&tree);
    }
    let lines = if all_tests {
        0
    } else {
        text.lines().count() - walk.test_lines
    };
    SourceFile {
        path: inside.to_path_buf(),
        text,
        lines,
        functions: walk.functions,
        unwraps: walk.unwraps,
    }
}

/// Whether a whole file is test code: `tests.rs`, or anything in a folder `tests` or `testing`.
fn is_test_file(path: &Path) -> bool {
    let mut parts = path.components().map(|part| part.as_os_str());
    parts.any(|part| part == "tests" || part == "testing" || part == "tests.rs")
}

#[derive(Default)]
struct Walk {
    functions: Vec<Function>,
    unwraps: Vec<usize>,
    test_lines: usize,
}

impl Walk {
    fn function(&mut self, name: &syn::Ident, item: Span) {
        let (start, end) = (item.start().line, item.end().line);
        self.functions.push(Function {
            name: name.to_string(),
            line: start,
            lines: end - start + 1,
        });
    }
}

impl<'ast> Visit<'ast> for Walk {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if module.attrs.iter().any(is_cfg_test) {
            let span = module.span();
            self.test_lines += span.end().line - span.start().line + 1;
        } else {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        if function
            .attrs
            .iter()
            .any(|attribute| is_cfg_test(attribute) || attribute.path().is_ident("test"))
        {
            return;
        }
        self.function(
            &function.sig.ident,
            function
                .sig
                .span()
                .join(function.block.span())
                .unwrap_or_else(|| function.span()),
        );
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.function(
            &function.sig.ident,
            function
                .sig
                .span()
                .join(function.block.span())
                .unwrap_or_else(|| function.span()),
        );
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        if call.method == "unwrap" {
            self.unwraps.push(call.method.span().start().line);
        }
        visit::visit_expr_method_call(self, call);
    }
}

fn is_cfg_test(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute
            .parse_args::<syn::Ident>()
            .is_ok_and(|condition| condition == "test")
}
