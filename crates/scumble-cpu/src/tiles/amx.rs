//! AMX: eight tile registers and `tdpbf16ps`, in inline assembly because Rust's intrinsics for it are not stable yet.
//!
//! A tile register is 16 rows of 64 bytes, so an operand's tile is one load with a row stride of 64. The whole depth of
//! a block is one piece of assembly: no tile register lives across Rust code. The instruction sums the even and the
//! odd depths of a tile in two chains and adds both to C; denormal numbers count as zero.
//!
//! The registers have to be asked for: the processor has them (CPUID), the system saves them (XCR0), and, on Linux, the
//! process may use them (`arch_prctl`; see the kernel's `Documentation/arch/x86/xstate.rst`).

use std::arch::asm;
use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use super::{SUMS, Strips, TILE, TileUnit};

/// Proof that the process may use the tile registers.
#[derive(Clone, Copy)]
pub(crate) struct Amx(());

impl Amx {
    /// The unit, if the machine has it and the system lets this process use it.
    pub(crate) fn detect() -> Option<Self> {
        (has_instructions() && system_saves_tiles() && may_use_tiles()).then_some(Self(()))
    }

    /// The unit of a tier that was found available.
    ///
    /// # Safety
    /// [`Amx::detect`] must have found it in this process.
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

/// CPUID leaf 7, EDX: bit 22 for products of bf16, bit 24 for the tile registers.
fn has_instructions() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const BF16: u32 = 1 << 22;
    const TILES: u32 = 1 << 24;
    #[allow(unused_unsafe)] // safe from some version of the compiler on
    // SAFETY: every x86-64 has the instruction; a leaf beyond the last is not asked for.
    let features = unsafe { if __cpuid(0).eax < 7 { 0 } else { __cpuid_count(7, 0).edx } };
    features & BF16 != 0 && features & TILES != 0
}

/// XCR0, bits 17 and 18: the system saves tile configuration and tile data when it switches threads.
fn system_saves_tiles() -> bool {
    use std::arch::x86_64::__cpuid;
    const OSXSAVE: u32 = 1 << 27;
    const TILE_STATE: u32 = 3 << 17;
    #[allow(unused_unsafe)] // safe from some version of the compiler on
    // SAFETY: every x86-64 has the instruction.
    if unsafe { __cpuid(1).ecx } & OSXSAVE == 0 {
        return false;
    }
    let low: u32;
    // SAFETY: the bit above says that user programs may read XCR0.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack, preserves_flags))
    };
    low & TILE_STATE == TILE_STATE
}

/// Asks Linux for the tile data, once for all threads of the process; asking again changes nothing.
#[cfg(target_os = "linux")]
fn may_use_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: this call takes two numbers and touches no memory of ours. Kernels that do not know it return an error.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

/// Other systems are not asked.
#[cfg(not(target_os = "linux"))]
fn may_use_tiles() -> bool {
    false
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row, for each register (the upper half is reserved).
    row_bytes: [u16; 16],
    /// Rows of each register.
    rows: [u8; 16],
}

/// Eight registers of 16 rows of 64 bytes.
static WHOLE_TILES: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Tile registers that are configured on this thread, until dropped: tiles in use make switching threads slower.
pub(crate) struct Configured {
    /// A thread's registers stay with it.
    _not_send: std::marker::PhantomData<*const ()>,
}

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: whoever made a session had the proof that the instruction may be used.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

/// Loads or clears the sums, walks the depth, stores the sums: tmm0..3 are C, tmm4 and 5 A, tmm6 and 7 B.
macro_rules! walk {
    ($at:ident, load $load:literal, clear $clear:literal, step $step:literal, store $store:literal,
     moving $($moving:ident = $from:expr),+; sums $($sums:ident = $tile:expr),+) => {
        asm!(
            "test {begins:e}, {begins:e}",
            "jnz 2f",
            $load,
            "jmp 3f",
            "2:",
            $clear,
            "3:",
            "test {steps}, {steps}",
            "jz 5f",
            "4:",
            $step,
            "dec {steps}",
            "jnz 4b",
            "5:",
            $store,
            begins = in(reg) u32::from($at.begins),
            steps = inout(reg) $at.steps() => _,
            stride = in(reg) 64usize,
            $($moving = inout(reg) $from => _,)+
            $($sums = in(reg) $tile,)+
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        )
    };
}

// SAFETY: the assembly reads `steps` tiles of each strip and touches one tile of sums for each pair of strips.
unsafe impl TileUnit for Amx {
    type Session = Configured;

    #[inline(always)]
    fn enter(self) -> Configured {
        // SAFETY: `self` proves that the instruction may be used; the configuration is a valid one of 64 bytes.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE_TILES, options(readonly, nostack, preserves_flags))
        };
        Configured { _not_send: std::marker::PhantomData }
    }

    #[inline(never)]
    unsafe fn block(self, rows: usize, columns: usize, at: &Strips) {
        debug_assert!(at.c_row >= SUMS || rows < 2);
        debug_assert!(at.a_strip >= at.steps() * TILE || rows < 2);
        // SAFETY: a hint does not touch the memory.
        at.ahead.ask(|at| unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) });
        let (a1, b1) = (at.a.wrapping_add(at.a_strip), at.b.wrapping_add(at.b_strip));
        let (c01, c10) = (at.c.wrapping_add(at.c_column), at.c.wrapping_add(at.c_row));
        let c11 = c10.wrapping_add(at.c_column);
        // SAFETY: the caller's promise. Each loop reads its operand tiles in order and ends after `steps`.
        unsafe {
            match (rows, columns) {
                (1, 1) => walk!(at,
                    load "tileloadd tmm0, [{c00} + {stride}*1]",
                    clear "tilezero tmm0",
                    step "tileloadd tmm4, [{a0} + {stride}*1]
                          tileloadd tmm6, [{b0} + {stride}*1]
                          tdpbf16ps tmm0, tmm4, tmm6
                          add {a0}, 1024
                          add {b0}, 1024",
                    store "tilestored [{c00} + {stride}*1], tmm0",
                    moving a0 = at.a, b0 = at.b; sums c00 = at.c),
                (1, _) => walk!(at,
                    load "tileloadd tmm0, [{c00} + {stride}*1]
                          tileloadd tmm1, [{c01} + {stride}*1]",
                    clear "tilezero tmm0
                           tilezero tmm1",
                    step "tileloadd tmm4, [{a0} + {stride}*1]
                          tileloadd tmm6, [{b0} + {stride}*1]
                          tdpbf16ps tmm0, tmm4, tmm6
                          tileloadd tmm7, [{b1} + {stride}*1]
                          tdpbf16ps tmm1, tmm4, tmm7
                          add {a0}, 1024
                          add {b0}, 1024
                          add {b1}, 1024",
                    store "tilestored [{c00} + {stride}*1], tmm0
                           tilestored [{c01} + {stride}*1], tmm1",
                    moving a0 = at.a, b0 = at.b, b1 = b1; sums c00 = at.c, c01 = c01),
                (_, 1) => walk!(at,
                    load "tileloadd tmm0, [{c00} + {stride}*1]
                          tileloadd tmm2, [{c10} + {stride}*1]",
                    clear "tilezero tmm0
                           tilezero tmm2",
                    step "tileloadd tmm6, [{b0} + {stride}*1]
                          tileloadd tmm4, [{a0} + {stride}*1]
                          tdpbf16ps tmm0, tmm4, tmm6
                          tileloadd tmm5, [{a1} + {stride}*1]
                          tdpbf16ps tmm2, tmm5, tmm6
                          add {a0}, 1024
                          add {a1}, 1024
                          add {b0}, 1024",
                    store "tilestored [{c00} + {stride}*1], tmm0
                           tilestored [{c10} + {stride}*1], tmm2",
                    moving a0 = at.a, a1 = a1, b0 = at.b; sums c00 = at.c, c10 = c10),
                _ => walk!(at,
                    load "tileloadd tmm0, [{c00} + {stride}*1]
                          tileloadd tmm1, [{c01} + {stride}*1]
                          tileloadd tmm2, [{c10} + {stride}*1]
                          tileloadd tmm3, [{c11} + {stride}*1]",
                    clear "tilezero tmm0
                           tilezero tmm1
                           tilezero tmm2
                           tilezero tmm3",
                    step "tileloadd tmm4, [{a0} + {stride}*1]
                          tileloadd tmm6, [{b0} + {stride}*1]
                          tdpbf16ps tmm0, tmm4, tmm6
                          tileloadd tmm7, [{b1} + {stride}*1]
                          tdpbf16ps tmm1, tmm4, tmm7
                          tileloadd tmm5, [{a1} + {stride}*1]
                          tdpbf16ps tmm2, tmm5, tmm6
                          tdpbf16ps tmm3, tmm5, tmm7
                          add {a0}, 1024
                          add {a1}, 1024
                          add {b0}, 1024
                          add {b1}, 1024",
                    store "tilestored [{c00} + {stride}*1], tmm0
                           tilestored [{c01} + {stride}*1], tmm1
                           tilestored [{c10} + {stride}*1], tmm2
                           tilestored [{c11} + {stride}*1], tmm3",
                    moving a0 = at.a, a1 = a1, b0 = at.b, b1 = b1;
                    sums c00 = at.c, c01 = c01, c10 = c10, c11 = c11),
            }
        }
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;
    use crate::tiles::{amx_in_software, self_check};

    /// The assembly itself: on a machine without AMX every instruction of it is done in software.
    #[test]
    fn the_assembly_multiplies_as_the_emulation_does() {
        let unit = Amx::detect().unwrap_or_else(|| {
            amx_in_software::install();
            Amx(())
        });
        assert!(self_check::agrees(unit));
    }
}
