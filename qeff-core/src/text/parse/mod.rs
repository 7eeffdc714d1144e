//! Reading a model.
//!
//! Text comes from people and from strangers, so every mistake is an error with its line and column, and nothing here
//! panics or recurses (weight expressions limit their own depth). Labels are opaque: that `%k0'` is a version of `%k0`
//! follows from the write that makes it, not from its name.
//!
//! This file knows lines, scopes and declarations; `node` knows the operators.

mod node;

use std::collections::HashMap;

use qeff_plugin_api::graph::{Link, Model, PositionLimit, Program, Role, StateKind, Symbol, Task, Type, ValueId};
use qeff_plugin_api::wire::DOMAIN_VERSION;
use qeff_plugin_api::{DType, Elem, TensorIndex, WeightExpr};

use super::error::{ParseError, ParseErrorKind};
use super::scan::{Result, Scan};
use super::spell;

/// Reads a model that [`print()`](super::print()) has written, or that follows its grammar; `tensors` gives the shapes of
/// weights.
///
/// The result's handles are numbered as [`compact()`](super::compact()) does.
///
/// # Errors
/// The first place that does not follow the grammar, or where a type is not what its operator yields.
pub fn parse(text: &str, tensors: &TensorIndex) -> std::result::Result<Model, ParseError> {
    let mut lines = text
        .lines()
        .enumerate()
        .map(|(i, text)| Scan::new(i + 1, text))
        .filter_map(|mut scan| (!scan.rest().is_empty() && !scan.rest().starts_with('#')).then_some(scan));
    let mut model = match lines.next() {
        Some(mut scan) => header(&mut scan)?,
        None => return Scan::new(1, "").expected("`model`"),
    };
    let mut open: Option<ProgramReader<'_>> = None;
    for mut scan in lines {
        if scan.indent() > 0 {
            match &mut open {
                Some(program) => program.line(&mut scan)?,
                None => return scan.expected("`program` at the beginning of the line"),
            }
        } else if scan.eat_word("program") {
            model.programs.extend(open.take().map(ProgramReader::finish).transpose()?);
            open = Some(ProgramReader::open(scan, tensors)?);
        } else if open.is_none() && scan.eat_word("stale") {
            model.stale_tensors = stale(&mut scan)?;
        } else if open.is_none() && scan.eat_word("link") {
            model.links.push(link(&mut scan)?);
        } else {
            return scan.expected(if open.is_none() { "`stale`, `link` or `program`" } else { "`program`" });
        }
    }
    model.programs.extend(open.map(ProgramReader::finish).transpose()?);
    Ok(model)
}

fn header(scan: &mut Scan<'_>) -> Result<Model> {
    scan.keyword("model")?;
    let architecture = scan.quoted("an architecture")?;
    scan.keyword("qeff")?;
    let at = scan.mark();
    let version: i64 = scan.number("a version of qeff")?;
    if !(1..=DOMAIN_VERSION).contains(&version) {
        return Err(scan.unexpected(at, format!("a version of qeff up to {DOMAIN_VERSION}")));
    }
    scan.keyword("task")?;
    let task = scan.one_of("a task", &Task::ALL.iter().map(|&(task, name)| (name, task)).collect::<Vec<_>>())?;
    let positions = match scan.eat_word("positions") {
        true => {
            let trained = scan.number("a number of positions")?;
            Some(PositionLimit { trained, hard: scan.eat_word("hard") })
        }
        false => None,
    };
    scan.end()?;
    Ok(Model { architecture, task, positions, stale_tensors: vec![], programs: vec![], links: vec![] })
}

fn stale(scan: &mut Scan<'_>) -> Result<Vec<String>> {
    let mut endings = vec![scan.quoted("the ending of a tensor's name")?];
    while scan.eat(",") {
        endings.push(scan.quoted("the ending of a tensor's name")?);
    }
    scan.end()?;
    Ok(endings)
}

fn link(scan: &mut Scan<'_>) -> Result<Link> {
    let from = (scan.name("a program")?, scan.name("an output of the program")?);
    scan.expect("->")?;
    let to = (scan.name("a program")?, scan.name("an input of the program")?);
    scan.end()?;
    Ok(Link { from, to })
}

/// A program of which some lines have been read.
struct ProgramReader<'t> {
    program: Program,
    tensors: &'t TensorIndex,
    labels: HashMap<&'t str, ValueId>,
    /// The headings above the current line.
    scopes: Vec<String>,
    /// The heading of the program, and where its symbols stand there.
    head: Scan<'t>,
    symbols_at: usize,
    symbols: Vec<Symbol>,
}

impl<'t> ProgramReader<'t> {
    fn open(mut scan: Scan<'t>, tensors: &'t TensorIndex) -> Result<Self> {
        let mut program = Program::new(scan.name("the program's name")?);
        let symbols_at = scan.mark();
        let symbols = scan.list("(", ")", |scan| Ok(Symbol::new(scan.word("a symbol")?)))?;
        if scan.eat_word("act") {
            program.act =
                scan.one_of("an element type", &DType::ALL.iter().map(|&d| (d.name(), d)).collect::<Vec<_>>())?;
        }
        scan.end()?;
        Ok(ProgramReader { program, tensors, labels: HashMap::new(), scopes: vec![], head: scan, symbols_at, symbols })
    }

    fn finish(self) -> Result<Program> {
        let declared = self.program.symbols();
        if declared != self.symbols {
            let names: Vec<_> = declared.iter().map(|symbol| spell::word(symbol.name())).collect();
            let expected = format!("the symbols of the declarations, ({})", names.join(", "));
            return Err(self.head.unexpected(self.symbols_at, expected));
        }
        Ok(super::compact(&self.program))
    }

    fn line(&mut self, scan: &mut Scan<'t>) -> Result<()> {
        let (spaces, start) = (scan.indent(), scan.mark());
        let level = spaces / 2;
        if !spaces.is_multiple_of(2) || level > self.scopes.len() + 1 {
            let deepest = 2 * (self.scopes.len() + 1);
            return Err(scan.unexpected(start, format!("an indentation of 2, 4, … up to {deepest} spaces")));
        }
        self.scopes.truncate(level - 1);
        if scan.rest().starts_with('%') {
            return self.definition(scan);
        }
        // A scope may be called `output` or `_`; only a heading stands alone on its line.
        let heading = scan.name("a heading, `output` or `%… =`")?;
        if scan.rest().is_empty() {
            self.scopes.push(heading);
            return Ok(());
        }
        match heading.as_str() {
            "output" if level == 1 => self.output(scan),
            "_" => {
                scan.expect("=")?;
                node::read(self, scan, &[])
            }
            _ => scan.expected("the end of the line after a heading"),
        }
    }

    /// `%… = …`: a declaration or a node.
    fn definition(&mut self, scan: &mut Scan<'t>) -> Result<()> {
        let mut labels = vec![];
        loop {
            let at = scan.mark();
            let label = scan.label()?;
            if self.labels.contains_key(label) || labels.iter().any(|&(_, other)| other == label) {
                return Err(scan.error(at, ParseErrorKind::Redefined { label: label.to_owned() }));
            }
            labels.push((at, label));
            if !scan.eat(",") {
                break;
            }
        }
        scan.expect("=")?;
        let at = scan.mark();
        // `input::Op` is an operator of a domain called `input`.
        let qualified = scan.rest().trim_start_matches(spell::in_name).starts_with("::");
        let declaration = match scan.peek() {
            _ if qualified => None,
            "input" => Some(Self::input as fn(&mut Self, &mut Scan<'t>) -> Result<Vec<ValueId>>),
            "State" => Some(Self::state as _),
            "weight" => Some(Self::table as _),
            _ => None,
        };
        let Some(read) = declaration else {
            let labels: Vec<_> = labels.into_iter().map(|(_, label)| label).collect();
            return node::read(self, scan, &labels);
        };
        if !self.scopes.is_empty() {
            return Err(scan.unexpected(at, "an operator; declarations stand directly below the program"));
        }
        let word = scan.peek();
        scan.eat(word);
        let values = read(self, scan)?;
        scan.end()?;
        if values.len() != labels.len() {
            return Err(scan.unexpected(labels[0].0, format!("{} values on the left", values.len())));
        }
        self.labels.extend(labels.into_iter().map(|(_, label)| label).zip(values));
        Ok(())
    }

    /// `NAME : TYPE @ROLE`
    fn input(&mut self, scan: &mut Scan<'t>) -> Result<Vec<ValueId>> {
        let name = scan.name("the input's name")?;
        scan.expect(":")?;
        let ty = scan.ty()?;
        let role = role(scan)?;
        Ok(vec![self.program.add_input(name, role, ty)])
    }

    /// `SLOT [rolling | fill | row] names(NAME, …) : TYPE[, …]`
    fn state(&mut self, scan: &mut Scan<'t>) -> Result<Vec<ValueId>> {
        let slot = scan.name("the slot's name")?;
        let kinds = StateKind::ALL.iter().filter(|(kind, _)| *kind != StateKind::Full);
        let kind = kinds.copied().find(|(_, word)| scan.eat_word(word)).map_or(StateKind::Full, |(kind, _)| kind);
        scan.keyword("names")?;
        let names = scan.list("(", ")", |scan| scan.name("a part's name"))?;
        let at = scan.mark();
        let types: Vec<Type> = match scan.eat(":") {
            true => scan.types()?.into_iter().map(|(_, ty)| ty).collect(),
            false => vec![],
        };
        let types = match <[Type; 1]>::try_from(types) {
            Ok([one]) => vec![one; names.len()],
            Err(types) => types,
        };
        if types.len() != names.len() {
            return Err(scan.unexpected(at, format!("`:` and one type, or one for each of {} parts", names.len())));
        }
        let slot = self.program.add_state(slot, kind, names.into_iter().zip(types).collect());
        Ok(self.program.state(slot).parts.clone())
    }

    /// `EXPR : TYPE`
    fn table(&mut self, scan: &mut Scan<'t>) -> Result<Vec<ValueId>> {
        let at = scan.mark();
        let expr = self.expr(scan)?;
        scan.expect(":")?;
        let ty_at = scan.mark();
        let stated = scan.ty()?;
        let value = self.weight(scan, at, expr, stated.elem)?;
        let ty = self.program.ty(value);
        if *ty != stated {
            return Err(scan.unexpected(ty_at, format!("{}, the type of the weight", spell::ty(ty))));
        }
        Ok(vec![value])
    }

    /// `NAME = VALUE : TYPE @ROLE`
    fn output(&mut self, scan: &mut Scan<'t>) -> Result<()> {
        let name = scan.name("the output's name")?;
        scan.expect("=")?;
        let value = self.value(scan)?;
        scan.expect(":")?;
        let at = scan.mark();
        let stated = scan.ty()?;
        let ty = self.program.ty(value);
        if *ty != stated {
            return Err(scan.unexpected(at, format!("{}, the type of the value", spell::ty(ty))));
        }
        let role = role(scan)?;
        scan.end()?;
        self.program.add_output(name, role, value);
        Ok(())
    }

    /// A value that is used: a label, or a weight as it stands.
    fn value(&mut self, scan: &mut Scan<'t>) -> Result<ValueId> {
        let at = scan.mark();
        if scan.rest().starts_with('%') {
            let label = scan.label()?;
            let undefined = || scan.error(at, ParseErrorKind::Undefined { label: label.to_owned() });
            return self.labels.get(label).copied().ok_or_else(undefined);
        }
        if !starts_weight(scan.rest()) {
            return scan.expected("a value `%…` or a weight");
        }
        let expr = self.expr(scan)?;
        let elem = if scan.eat_word("as") { scan.elem()? } else { Elem::Act };
        self.weight(scan, at, expr, elem)
    }

    /// A weight expression, its tensors named from the scope of the line.
    fn expr(&self, scan: &mut Scan<'t>) -> Result<WeightExpr> {
        let scope = spell::path(&self.scopes);
        let text = scan.rest();
        match WeightExpr::parse_prefix(text, &|name| spell::to_full(&scope, name)) {
            Ok((expr, rest)) => {
                scan.resume(rest);
                Ok(expr)
            }
            Err(error) => {
                // The error tells how the text goes on where it fails, which is nearly always one place of the line.
                let into = match text.ends_with(&error.rest) {
                    true => text.len() - error.rest.len(),
                    false => text.find(&error.rest).unwrap_or(0),
                };
                let at = scan.mark() + into;
                Err(scan.unexpected(at, format!("{} in a weight expression", error.expected)))
            }
        }
    }

    fn weight(&mut self, scan: &Scan<'_>, at: usize, expr: WeightExpr, elem: Elem) -> Result<ValueId> {
        let shape = expr.shape(self.tensors).map_err(|error| scan.error(at, error.into()))?;
        Ok(self.program.add_weight(expr, Type::weight(&shape).with_elem(elem)))
    }
}

/// Whether an operand that is a weight begins here, rather than an attribute.
fn starts_weight(rest: &str) -> bool {
    ["w\"", "fill(", "rope(", "concat(", "stack("].iter().any(|start| rest.starts_with(start))
}

fn role(scan: &mut Scan<'_>) -> Result<Role> {
    scan.expect("@")?;
    scan.one_of("a role", &Role::ALL.iter().map(|&(role, name)| (name, role)).collect::<Vec<_>>())
}
