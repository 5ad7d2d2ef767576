//! The memory of a component's core instances beside memories and tables, computed without compiling it: wasmtime's limits do not
//! cover globals and functions, and a module of some MiB may have a million of them for each of its instances.

use wasmparser::{
    BinaryReaderError, ComponentAlias, ComponentExternalKind, ComponentOuterAliasKind,
    ComponentTypeRef, Encoding, Instance, Payload,
};

use super::limits;

/// A global's value.
const GLOBAL_BYTES: usize = 16;

/// A function reference.
const FUNCTION_BYTES: usize = 32;

/// The most that an instance stores for an import.
const IMPORT_BYTES: usize = 48;

/// The parser's position.
enum NestingLevel {
    /// In a component: the size of an instance of each of its modules; none: unknown here.
    Component(Vec<Option<usize>>),
    /// In a module: the size of an instance of it, as far as it was read.
    Module(usize),
}

/// The sizes found so far.
#[derive(Default)]
pub(super) struct Instances {
    levels: Vec<NestingLevel>,
    /// The largest module's.
    largest: usize,
    /// Each instance's in the outermost component; none: its module is unknown.
    outermost: Vec<Option<usize>>,
    /// Whether inner components instantiate modules: these components may be instantiated several times.
    has_inner: bool,
}

impl Instances {
    /// Handles the next part of the component.
    ///
    /// # Errors
    /// The component is damaged.
    pub(super) fn read(&mut self, payload: &Payload<'_>) -> Result<(), BinaryReaderError> {
        match payload {
            Payload::Version { encoding, .. } => self.levels.push(match encoding {
                Encoding::Component => NestingLevel::Component(Vec::new()),
                Encoding::Module => NestingLevel::Module(0),
            }),
            Payload::End(_) => {
                if let Some(NestingLevel::Module(bytes)) = self.levels.pop() {
                    self.largest = self.largest.max(bytes);
                    self.has_module(Some(bytes));
                }
            }
            Payload::GlobalSection(section) => self.takes(section.count(), GLOBAL_BYTES),
            Payload::FunctionSection(section) => self.takes(section.count(), FUNCTION_BYTES),
            Payload::ImportSection(section) => self.takes(section.count(), IMPORT_BYTES),
            Payload::ComponentAliasSection(section) => {
                for alias in section.clone() {
                    if is_module(&alias?) {
                        self.has_module(None);
                    }
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section.clone() {
                    if matches!(import?.ty, ComponentTypeRef::Module(_)) {
                        self.has_module(None);
                    }
                }
            }
            Payload::InstanceSection(section) => {
                for instance in section.clone() {
                    if let Instance::Instantiate { module_index, .. } = instance? {
                        self.has_instance(module_index);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn takes(&mut self, count: u32, bytes: usize) {
        if let Some(NestingLevel::Module(taken)) = self.levels.last_mut() {
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            *taken = taken.saturating_add(count.saturating_mul(bytes));
        }
    }

    fn has_module(&mut self, bytes: Option<usize>) {
        if let Some(NestingLevel::Component(modules)) = self.levels.last_mut() {
            modules.push(bytes);
        }
    }

    fn has_instance(&mut self, module: u32) {
        match self.levels.as_slice() {
            [NestingLevel::Component(modules)] => {
                let index = usize::try_from(module).unwrap_or(usize::MAX);
                let bytes = modules.get(index).copied().flatten();
                self.outermost.push(bytes);
            }
            _ => self.has_inner = true,
        }
    }

    /// The most bytes that a call's core instances take.
    pub(super) fn bytes(&self) -> usize {
        if self.has_inner {
            return self.largest.saturating_mul(limits::INSTANCES);
        }
        let bytes = self
            .outermost
            .iter()
            .map(|bytes| bytes.unwrap_or(self.largest));
        bytes.fold(0, usize::saturating_add)
    }
}

fn is_module(alias: &ComponentAlias<'_>) -> bool {
    match alias {
        ComponentAlias::Outer { kind, .. } => matches!(kind, ComponentOuterAliasKind::CoreModule),
        ComponentAlias::InstanceExport { kind, .. } => {
            matches!(kind, ComponentExternalKind::Module)
        }
        // Core instances export no modules.
        ComponentAlias::CoreInstanceExport { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use wasmparser::Parser;

    use super::*;

    fn bytes(body: &str) -> usize {
        let component = wat::parse_str(format!("(component {body})")).unwrap();
        let mut instances = Instances::default();
        for payload in Parser::new(0).parse_all(&component) {
            instances.read(&payload.unwrap()).unwrap();
        }
        instances.bytes()
    }

    #[test]
    fn each_instance_counts_with_what_its_module_has() {
        let globals = "(global i32 (i32.const 0)) (global i32 (i32.const 1))";
        let module = format!("(core module $m {globals} (func) (func))");
        let each = 2 * GLOBAL_BYTES + 2 * FUNCTION_BYTES;
        let instance = "(core instance (instantiate $m))";
        let small = r#"(core module $s (import "a" "b" (func)))"#;
        let given = "(core module $f (func (export \"b\"))) (core instance $a (instantiate $f))";
        for (body, expected) in [
            (String::new(), 0),
            (module.clone(), 0),
            (format!("{module} {instance}"), each),
            (format!("{module} {instance} {instance}"), 2 * each),
            (
                format!(
                    "{module} {small} {given} (core instance (instantiate $s (with \"a\" (instance $a))))"
                ),
                FUNCTION_BYTES + IMPORT_BYTES,
            ),
            // How often an inner component is instantiated is not analysed.
            (
                format!("(component $c {module} {instance}) (instance (instantiate $c))"),
                limits::INSTANCES * each,
            ),
            (
                format!(
                    "{module} (component $c (alias outer 1 $m (core module $n)) (core instance (instantiate $n)))"
                ),
                limits::INSTANCES * each,
            ),
        ] {
            assert_eq!(bytes(&body), expected, "{body}");
        }
    }
}
