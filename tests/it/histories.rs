//! Random histories: the scripts decide and keep what the model does.

use floodgate::domain::ids::CellId;
use proptest::prelude::*;

use super::support::clock_redis;
use super::support::history::{World, all_steps, check, settings};
use super::support::stage::RedisStage;

#[test]
fn the_scripts_decide_as_the_model_does() {
    let server = clock_redis::shared();
    let histories = (settings(), prop::collection::vec(all_steps(), 1..60));
    check("the_scripts_decide_as_the_model_does", 300, histories, |(setting, steps)| {
        let redis = RedisStage::at(&server, CellId(u16::MAX));
        redis.plain(&mut redis::cmd("FLUSHALL"));
        let mut world = World::new(redis, &setting);
        for step in &steps {
            world.step(step)?;
        }
        world.compare()
    });
}
