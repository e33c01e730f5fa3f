//! AMX's instructions in software, for trying [`super::amx`]'s assembly on machines without them.
//!
//! A processor that lacks an instruction raises a signal. The handler here finds out which instruction it was, does to
//! registers of its own what the manual says, and lets the program go on behind it. Anything else stops the process.
//! Encodings and operations: Intel's software developer's manual, volume 2, LDTILECFG, TILELOADD, TILESTORED, TILEZERO,
//! TILERELEASE, TDPBF16PS.

use std::cell::Cell;

use libc::{c_int, c_void, siginfo_t, ucontext_t};

/// A tile register: 16 rows of 64 bytes.
type Register = [[u32; 16]; 16];

thread_local! {
    static REGISTERS: Cell<[Register; 8]> = const { Cell::new([[[0; 16]; 16]; 8]) };
    static CONFIGURED: Cell<bool> = const { Cell::new(false) };
}

/// From now on the instructions work in this process, on processors that lack them.
pub(crate) fn install() {
    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = on_illegal_instruction;
    // SAFETY: an action of zeros is one without flags and with an empty mask; the handler has the type that its flag says.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        assert_eq!(libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()), 0);
    }
}

extern "C" fn on_illegal_instruction(_: c_int, _: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the third argument is the interrupted thread's context, which nobody else has.
    let registers = unsafe { &mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs };
    let at = registers[libc::REG_RIP as usize] as *const u8;
    // SAFETY: the processor has just read an instruction there. Those of AMX have five bytes and more.
    let done = unsafe { Instruction::read(at, registers) }.and_then(Instruction::run);
    match done {
        Some(length) => registers[libc::REG_RIP as usize] += length as i64,
        None => std::process::abort(),
    }
}

/// An instruction of AMX in its three-byte VEX encoding.
struct Instruction {
    /// Prefix: 0 for none, 2 for F3, 3 for F2.
    prefix: u8,
    opcode: u8,
    /// The three fields of ModRM, of whose registers there are eight.
    mode: u8,
    register: usize,
    operand: u8,
    /// The second source.
    second: usize,
    /// Memory: address, and bytes from one row to the next.
    address: usize,
    stride: usize,
    length: usize,
}

/// General registers in the order of their numbers.
const GENERAL: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

impl Instruction {
    /// # Safety
    /// An instruction must be at `at`.
    unsafe fn read(at: *const u8, registers: &[i64; 23]) -> Option<Self> {
        // SAFETY: the caller's promise; bytes behind an instruction's end are only read if the ones before say that they
        // belong to it.
        let byte = |index: usize| unsafe { at.add(index).read() };
        // VEX.128 with W 0 and the map 0F38.
        if byte(0) != 0xc4 || byte(1) & 0x1f != 2 || byte(2) & 0x84 != 0 {
            return None;
        }
        let high = |bit: u8| usize::from(byte(1) & bit == 0) * 8;
        let (mode, operand) = (byte(4) >> 6, byte(4) & 7);
        let mut found = Self {
            prefix: byte(2) & 3,
            opcode: byte(3),
            mode,
            register: usize::from(byte(4) >> 3 & 7) + high(0x80),
            operand,
            second: usize::from(!byte(2) >> 3 & 15),
            address: 0,
            stride: 0,
            length: 5,
        };
        let general = |number: usize| registers[GENERAL[number] as usize] as usize;
        if mode != 3 {
            let mut base = usize::from(operand);
            if operand == 4 {
                let (scale, index) = (byte(5) >> 6, usize::from(byte(5) >> 3 & 7) + high(0x40));
                base = usize::from(byte(5) & 7);
                found.stride = if index == 4 { 0 } else { general(index) << scale };
                found.length += 1;
            }
            if mode == 0 && base == 5 {
                return None; // no base register, which the assembly does not use
            }
            found.address = general(base + high(0x20));
            let displacement = (0..[0, 1, 4][usize::from(mode)])
                .fold(0u32, |all, index| all | u32::from(byte(found.length + index)) << (8 * index));
            found.address = match mode {
                1 => found.address.wrapping_add_signed(displacement as u8 as i8 as isize),
                _ => found.address.wrapping_add_signed(displacement as i32 as isize),
            };
            found.length += [0, 1, 4][usize::from(mode)];
        }
        Some(found)
    }

    /// Its length, if it is one of AMX's and may be used now.
    fn run(self) -> Option<usize> {
        let memory = self.mode != 3;
        match (self.prefix, self.opcode, memory) {
            (0, 0x49, true) if self.register == 0 => self.configure()?,
            (0, 0x49, false) if self.register == 0 && self.operand == 0 => {
                CONFIGURED.set(false);
                // What is read behind this point is a mistake that should show.
                REGISTERS.set([[[0x7fc0_7fc0; 16]; 16]; 8]);
            }
            _ if !CONFIGURED.get() || self.register > 7 => return None,
            (3, 0x49, false) if self.operand == 0 => self.write([[0; 16]; 16]),
            (3, 0x4b, true) if self.operand == 4 => {
                // SAFETY: the program loads these rows, as it would with the instruction.
                self.write(std::array::from_fn(|row| unsafe { self.row(row).read_unaligned() }));
            }
            (2, 0x4b, true) if self.operand == 4 => {
                for (row, values) in REGISTERS.get()[self.register].into_iter().enumerate() {
                    // SAFETY: the program stores these rows, as it would with the instruction.
                    unsafe { self.row(row).write_unaligned(values) };
                }
            }
            (2, 0x5c, false) => self.multiply()?,
            _ => return None,
        }
        Some(self.length)
    }

    fn row(&self, row: usize) -> *mut [u32; 16] {
        self.address.wrapping_add(row * self.stride) as *mut [u32; 16]
    }

    fn write(&self, value: Register) {
        let mut registers = REGISTERS.get();
        registers[self.register] = value;
        REGISTERS.set(registers);
    }

    /// Takes the one configuration that is in use: palette 1, whole tiles.
    fn configure(&self) -> Option<()> {
        // SAFETY: the program loads its configuration of 64 bytes from here.
        let bytes = unsafe { (self.address as *const [u8; 64]).read_unaligned() };
        let whole = |tile: usize| bytes[16 + 2 * tile..][..2] == [64, 0] && bytes[48 + tile] == 16;
        if bytes[..2] != [1, 0] || !(0..8).all(whole) {
            return None;
        }
        CONFIGURED.set(true);
        REGISTERS.set([[[0; 16]; 16]; 8]);
        Some(())
    }

    /// `C[m][n] += sum over k of A[m][k] B[k][n]`, k in pairs, even and odd ones in chains of their own.
    fn multiply(&self) -> Option<()> {
        let (a, b) = (usize::from(self.operand), self.second);
        if a == b || a == self.register || b == self.register || b > 7 {
            return None;
        }
        let registers = REGISTERS.get();
        let (a, b, mut c) = (registers[a], registers[b], registers[self.register]);
        // Denormal numbers count as zero.
        let number = |bits: u32| if bits & 0x7f80_0000 == 0 { 0.0 } else { f32::from_bits(bits) };
        for (row, sums) in a.iter().zip(&mut c) {
            for (column, sum) in sums.iter_mut().enumerate() {
                let (mut even, mut odd) = (0.0f32, 0.0f32);
                for (left, right) in row.iter().zip(b.iter().map(|pairs| pairs[column])) {
                    even = number(left << 16).mul_add(number(right << 16), even);
                    odd = number(left & 0xffff_0000).mul_add(number(right & 0xffff_0000), odd);
                }
                *sum = (f32::from_bits(*sum) + (even + odd)).to_bits();
            }
        }
        self.write(c);
        Some(())
    }
}
