//! Reading the source of a pattern, with a bound on what that costs.
//!
//! What must hold: a source is read, or refused, as the crate `regex` does by default; beyond that,
//! only what would cost too much and Unicode word boundaries are refused.

use regex_syntax::ast::{self, Ast};
use regex_syntax::hir::translate::Translator;
use regex_syntax::hir::{Class, Hir, HirKind};

use super::{Bounds, PatternFault};

/// Characters to find the other cases of in a step: finding one takes some nanoseconds, but of a
/// whole class not each is looked at.
const FOLDS_PER_STEP: usize = 8;

/// Steps that a class takes which Unicode defines: it is some hundred ranges, and may be read twice.
const CLASS_STEPS: usize = 1_000;

/// The most steps that reading a source takes.
pub(super) const fn steps_max(bounds: &Bounds) -> usize {
    bounds.folds / FOLDS_PER_STEP + bounds.classes * CLASS_STEPS
}

/// Reads a source; also tells how many steps that took.
pub(super) fn read(source: &str, bounds: &Bounds) -> Result<(Hir, usize), PatternFault> {
    let syntax = |message: String, span: &ast::Span| PatternFault::Syntax {
        message,
        at: 1 + source[..span.start.offset].chars().count(),
    };
    let ast = ast::parse::Parser::new().parse(source);
    let ast = ast.map_err(|error| syntax(error.kind().to_string(), error.span()))?;
    let weight = ast::visit(&ast, Weight::default())?;
    let folds = if weight.folds { weight.chars } else { 0 };
    if weight.classes > bounds.classes || folds > bounds.folds {
        return Err(PatternFault::TooLarge);
    }
    let hir = Translator::new().translate(source, &ast);
    let hir = hir.map_err(|error| syntax(error.kind().to_string(), error.span()))?;
    if hir.properties().look_set().contains_word_unicode() {
        return Err(PatternFault::WordBoundary);
    }
    let steps = folds / FOLDS_PER_STEP + weight.classes * CLASS_STEPS;
    Ok((hir, steps))
}

/// How many characters there are.
const CHARS: usize = 0x11_0000;

/// What translating a pattern costs, found before it is done: `regex-syntax` has no bound on it.
/// Without regard to case, each character of a class is looked up, once for each class that the
/// class is nested in: `(?i)[\0-\x{10FFFF}]` takes 4 ms.
#[derive(Default)]
struct Weight {
    /// Somewhere case is disregarded.
    folds: bool,
    /// How many classes and class operations surround this place.
    depth: usize,
    classes: usize,
    /// Characters of classes, each counted with its depth.
    chars: usize,
}

impl Weight {
    fn flags(&mut self, flags: &ast::Flags) {
        self.folds |= flags.flag_state(ast::Flag::CaseInsensitive) == Some(true);
    }

    /// Counts a class that Unicode defines.
    fn class(&mut self, class: Ast) {
        self.classes += 1;
        let hir = Translator::new().translate("", &class);
        if let Ok(HirKind::Class(Class::Unicode(class))) = hir.map(Hir::into_kind) {
            self.chars += self.depth * class.iter().map(|range| range.len()).sum::<usize>();
        }
    }

    fn unicode(&mut self, class: &ast::ClassUnicode) {
        if class.is_negated() {
            self.classes += 1;
            self.negated();
        } else {
            self.class(Ast::class_unicode(class.clone()));
        }
    }

    /// Counts a class that is all others: the other cases of both may be looked for.
    fn negated(&mut self) {
        self.chars += self.depth * CHARS;
    }
}

impl ast::Visitor for Weight {
    type Output = Weight;
    type Err = PatternFault;

    fn finish(self) -> Result<Weight, PatternFault> {
        Ok(self)
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), PatternFault> {
        match ast {
            Ast::Flags(set) => self.flags(&set.flags),
            Ast::Group(group) => {
                if let Some(flags) = group.flags() {
                    self.flags(flags);
                }
            }
            Ast::ClassUnicode(class) => {
                self.depth += 1;
                self.unicode(class);
                self.depth -= 1;
            }
            Ast::ClassPerl(_) => self.classes += 1,
            Ast::ClassBracketed(_) => self.depth += 1,
            _ => {}
        }
        Ok(())
    }

    fn visit_post(&mut self, ast: &Ast) -> Result<(), PatternFault> {
        if let Ast::ClassBracketed(_) = ast {
            self.depth -= 1;
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ast::ClassSetItem) -> Result<(), PatternFault> {
        match item {
            ast::ClassSetItem::Range(range) => {
                let chars = u32::from(range.end.c).abs_diff(range.start.c.into());
                self.chars += self.depth * chars as usize;
            }
            ast::ClassSetItem::Unicode(class) => self.unicode(class),
            ast::ClassSetItem::Perl(class) => self.class(Ast::class_perl(class.clone())),
            ast::ClassSetItem::Ascii(class) if class.negated => self.negated(),
            ast::ClassSetItem::Bracketed(class) => {
                if class.negated {
                    self.negated();
                }
                self.depth += 1;
            }
            _ => {}
        }
        Ok(())
    }

    fn visit_class_set_item_post(&mut self, item: &ast::ClassSetItem) -> Result<(), PatternFault> {
        if let ast::ClassSetItem::Bracketed(_) = item {
            self.depth -= 1;
        }
        Ok(())
    }

    fn visit_class_set_binary_op_pre(
        &mut self,
        _: &ast::ClassSetBinaryOp,
    ) -> Result<(), PatternFault> {
        self.depth += 1;
        Ok(())
    }

    fn visit_class_set_binary_op_post(
        &mut self,
        _: &ast::ClassSetBinaryOp,
    ) -> Result<(), PatternFault> {
        self.depth -= 1;
        Ok(())
    }
}
