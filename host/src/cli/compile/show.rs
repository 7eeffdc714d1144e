//! What would be done, for people and for tools.

use anyhow::Result;
use serde_json::{Map, Value as Json, json};

use super::super::talk;
use crate::compile::shell;
use crate::qpc::Job;

/// Name of a file among those of all programs: its own if there is only one program.
fn name(job: &Job<'_>, jobs: &[Job<'_>], file: &str) -> String {
    if jobs.len() == 1 { file.to_owned() } else { format!("{}/{file}", job.program.stem) }
}

/// Every command and file.
pub(super) fn dry_run(jobs: &[Job<'_>], json: bool) -> Result<()> {
    if json {
        let commands: Vec<Json> =
            jobs.iter().flat_map(|job| &job.plan.commands).map(|command| json!(command.argv())).collect();
        let mut files = Map::new();
        for job in jobs {
            for file in &job.plan.files {
                files.insert(name(job, jobs, &file.name), json!(file.content));
            }
        }
        return talk::json(&json!({ "commands": commands, "files": files }));
    }
    for job in jobs {
        let stem = &job.program.stem;
        talk::say(&match job.find() {
            Some(artifact) => format!("{stem}: compiled before, on {}", artifact.manifest.created),
            None => format!("{stem}: would be compiled with {}", job.toolchain.name()),
        });
        for command in &job.plan.commands {
            talk::data(&format!("{}\n", shell(&command.argv())))?;
        }
        for file in &job.plan.files {
            talk::data(&format!("\n==> {} <==\n{}\n", name(job, jobs, &file.name), file.content.trim_end()))?;
        }
    }
    Ok(())
}

/// Every argument and its reason.
pub(super) fn explanation(jobs: &[Job<'_>], json: bool) -> Result<()> {
    if json {
        let commands = jobs.iter().flat_map(|job| &job.plan.commands).map(|command| {
            let args = command.args.iter().map(|arg| json!({ "arg": arg.text, "why": arg.why }));
            Json::Array(args.collect())
        });
        return talk::json(&json!({ "commands": commands.collect::<Vec<_>>() }));
    }
    for job in jobs {
        for command in &job.plan.commands {
            talk::data(&format!("{} for {}\n", command.tool(), job.program.stem))?;
            for arg in &command.args {
                talk::data(&format!("  {}\n      {}\n", arg.text, arg.why))?;
            }
        }
    }
    Ok(())
}
