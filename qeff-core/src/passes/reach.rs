//! Rotary tables for the positions that a request can reach.
//!
//! Two things about a table depend on how far positions go: how many rows it has, and, for dynamic NTK and LongRoPE, its
//! frequencies. transformers changes those *during* a generation, once it passes the original window; a table is fixed
//! when the program is made, so it is chosen by the largest position that can be reached. Inside the original window the
//! two agree; beyond it the report says so.

use qeff_plugin_api::WeightExpr;
use qeff_plugin_api::graph::Model;

use super::PassReport;

const PASS: &str = "reach";

/// Nothing to report if every table serves the reach as it is.
pub(super) fn apply(model: &mut Model, reach: u64) -> Option<PassReport> {
    let mut report = PassReport::new(PASS);
    for program in &mut model.programs {
        let mut longer = 0;
        let tables: Vec<_> =
            program.weights().filter(|(_, expr)| has_table(expr)).map(|(id, expr)| (id, expr.clone())).collect();
        for (id, mut expr) in tables {
            let WeightExpr::Rope(table) = &mut expr else { continue };
            if let Some(original) = table.length_dependent() {
                table.reach = reach;
                let warning = format!(
                    "positions reach {reach}, beyond the original window of {original}: rotary frequencies are those of \
                     the longest request for every position, while transformers changes them on the way"
                );
                if reach > original && !report.warnings.contains(&warning) {
                    report.warnings.push(warning);
                }
            }
            if reach > table.positions {
                table.positions = reach;
                longer += 1;
            }
            let shape = [table.positions, table.width / 2];
            program.set_weight(id, expr, &shape);
        }
        if longer > 0 {
            report.did.push(format!("{longer} rotary tables lengthened to {reach} positions"));
        }
    }
    (!report.did.is_empty() || !report.warnings.is_empty()).then_some(report)
}

fn has_table(expr: &WeightExpr) -> bool {
    matches!(expr, WeightExpr::Rope(_)) || expr.operands().iter().any(has_table)
}
