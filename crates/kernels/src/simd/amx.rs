//! AMX (Sapphire Rapids and later): integer products of tiles of 16 rows by 16 outputs, some eight times as many a cycle as
//! AVX-512 has. Everything else is AVX-512's, and the sums are the same; so are those of a system that gives no tiles.
//!
//! A tile is 16 lines of 64 bytes. Of inputs a line is a row's 64 bytes; of weights it is a line of a panel as it lies: 4 inputs
//! of 16 outputs. Rust has no stable intrinsics for it, so the instructions are written out.

/// Rows of a tile of inputs, and of a tile of sums.
pub(crate) const TILE: usize = 16;

/// What [`TileProducts::sums`] makes: 16 sums for each row of two tiles of rows, two panels.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct TileSums([[[[i32; 16]; TILE]; 2]; 2]);

impl TileSums {
    pub(crate) const ZERO: TileSums = TileSums([[[[0; 16]; TILE]; 2]; 2]);

    /// The sums of a row of 0..32 with a panel.
    #[inline(always)]
    pub(crate) fn of(&self, row: usize, panel: usize) -> *const i32 {
        self.0[row / TILE][panel][row % TILE].as_ptr()
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod here {
    use super::TileSums;
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    use std::marker::PhantomData;
    use std::sync::OnceLock;

    /// Instructions, operands and options of an `asm!` that may change all tiles.
    macro_rules! asm_with_tiles {
        ([$($line:literal,)*] [$($operand:tt)*] [$($option:ident),*]) => {
            asm!(
                $($line,)*
                $($operand)*
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options($($option),*),
            )
        };
    }

    /// Proof that the processor has AMX with integers, and that the system lets this process use it.
    #[derive(Clone, Copy)]
    pub(crate) struct Tiles(());

    impl Tiles {
        /// Whether the processor has them.
        pub(crate) fn probe() -> bool {
            static FOUND: OnceLock<bool> = OnceLock::new();
            *FOUND.get_or_init(has_tiles)
        }

        /// Asks the system, once and only where there is use for them: a process that may use tiles needs larger stacks for signals.
        pub(crate) fn ask() -> Option<Tiles> {
            static GIVEN: OnceLock<bool> = OnceLock::new();
            GIVEN.get_or_init(|| Self::probe() && may_use_tiles()).then_some(Tiles(()))
        }

        /// Makes this thread's tiles ready, until the value is dropped.
        ///
        /// # Safety
        /// This thread has no other such value.
        #[inline]
        pub(crate) unsafe fn products(self) -> TileProducts {
            /// Palette 1, and of each of eight tiles the bytes of a line and the lines.
            #[repr(align(64))]
            struct Config([u8; 64]);
            static CONFIG: Config = {
                let mut bytes = [0; 64];
                bytes[0] = 1;
                let mut tile = 0;
                while tile < 8 {
                    bytes[16 + 2 * tile] = 64;
                    bytes[48 + tile] = super::TILE as u8;
                    tile += 1;
                }
                Config(bytes)
            };
            // SAFETY: `self` is the proof; the configuration is a valid one, of 64 bytes.
            unsafe {
                asm_with_tiles!(
                    ["ldtilecfg [{}]",]
                    [in(reg) CONFIG.0.as_ptr(),]
                    [nostack, readonly, preserves_flags]
                );
            }
            TileProducts(PhantomData)
        }
    }

    /// The processor has tiles (CPUID 7: EDX 24 and 25), and the system saves them (XCR0 17 and 18).
    fn has_tiles() -> bool {
        let saves = || __cpuid(1).ecx >> 27 & 1 == 1;
        // SAFETY: the processor has XGETBV where CPUID says so.
        let xcr0 = || unsafe { xcr0() };
        __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx >> 24 & 3 == 3 && saves() && xcr0() >> 17 & 3 == 3
    }

    #[target_feature(enable = "xsave")]
    fn xcr0() -> u64 {
        // SAFETY: `xsave` has it.
        unsafe { _xgetbv(0) }
    }

    /// Asks Linux for tiles: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
    fn may_use_tiles() -> bool {
        let result: i64;
        // SAFETY: a system call that reads and writes no memory of ours; it leaves rcx and r11 changed.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") 158_i64 => result,
                in("rdi") 0x1023_u64,
                in("rsi") 18_u64,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        result == 0
    }

    /// Tiles that are ready, of this thread.
    pub(crate) struct TileProducts(PhantomData<*const ()>);

    impl TileProducts {
        /// Sums over 64 `steps` inputs of 16 rows, or of 32 where `second` is where the others begin, with two panels.
        ///
        /// A row's inputs are bytes, `stride` from one row to the next, and signed, as the weights are. `w` are the two
        /// panels (twice the same one where there is no second).
        ///
        /// # Safety
        /// All rows, whole tiles of 16, and panels are valid for reading 64 `steps` inputs.
        #[inline(always)]
        pub(crate) unsafe fn sums(
            &self,
            (first, second): (*const u8, Option<*const u8>),
            stride: usize,
            w: [*const i8; 2],
            steps: usize,
            out: &mut TileSums,
        ) {
            if steps == 0 {
                *out = TileSums::ZERO;
                return;
            }
            // SAFETY: `self` is the proof that the tiles are ready; the caller vouches for the reading; `out` is four tiles.
            unsafe {
                if let Some(second) = second {
                    asm_with_tiles!(
                        [
                            "tilezero tmm0",
                            "tilezero tmm1",
                            "tilezero tmm2",
                            "tilezero tmm3",
                            "2:",
                            "tileloadd tmm6, [{w} + {line}]",
                            "tileloadd tmm4, [{a} + {stride}]",
                            "tileloadd tmm7, [{v} + {line}]",
                            "tileloadd tmm5, [{b} + {stride}]",
                            "tdpbssd tmm0, tmm4, tmm6",
                            "tdpbssd tmm1, tmm4, tmm7",
                            "tdpbssd tmm2, tmm5, tmm6",
                            "tdpbssd tmm3, tmm5, tmm7",
                            "add {a}, 64",
                            "add {b}, 64",
                            "add {w}, 1024",
                            "add {v}, 1024",
                            "dec {steps}",
                            "jnz 2b",
                            "tilestored [{out} + {line}], tmm0",
                            "tilestored [{out} + {line} + 1024], tmm1",
                            "tilestored [{out} + {line} + 2048], tmm2",
                            "tilestored [{out} + {line} + 3072], tmm3",
                        ]
                        [
                            a = inout(reg) first => _,
                            b = inout(reg) second => _,
                            w = inout(reg) w[0] => _,
                            v = inout(reg) w[1] => _,
                            steps = inout(reg) steps => _,
                            stride = in(reg) stride,
                            line = in(reg) 64_u64,
                            out = in(reg) out,
                        ]
                        [nostack]
                    );
                } else {
                    asm_with_tiles!(
                        [
                            "tilezero tmm0",
                            "tilezero tmm1",
                            "2:",
                            "tileloadd tmm6, [{w} + {line}]",
                            "tileloadd tmm4, [{a} + {stride}]",
                            "tileloadd tmm7, [{v} + {line}]",
                            "tdpbssd tmm0, tmm4, tmm6",
                            "tdpbssd tmm1, tmm4, tmm7",
                            "add {a}, 64",
                            "add {w}, 1024",
                            "add {v}, 1024",
                            "dec {steps}",
                            "jnz 2b",
                            "tilestored [{out} + {line}], tmm0",
                            "tilestored [{out} + {line} + 1024], tmm1",
                        ]
                        [
                            a = inout(reg) first => _,
                            w = inout(reg) w[0] => _,
                            v = inout(reg) w[1] => _,
                            steps = inout(reg) steps => _,
                            stride = in(reg) stride,
                            line = in(reg) 64_u64,
                            out = in(reg) out,
                        ]
                        [nostack]
                    );
                }
            }
        }
    }

    impl Drop for TileProducts {
        #[inline]
        fn drop(&mut self) {
            // SAFETY: `self` is the proof that the processor has tiles. What is released need not be saved for this thread.
            unsafe { asm_with_tiles!(["tilerelease",] [] [nostack, nomem, preserves_flags]) };
        }
    }
}

/// Elsewhere there are none, and nobody has a value of these.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
#[allow(dead_code)]
mod here {
    use super::TileSums;

    #[derive(Clone, Copy)]
    pub(crate) struct Tiles(());

    impl Tiles {
        pub(crate) fn probe() -> bool {
            false
        }

        pub(crate) fn ask() -> Option<Tiles> {
            None
        }

        pub(crate) unsafe fn products(self) -> TileProducts {
            TileProducts(())
        }
    }

    pub(crate) struct TileProducts(());

    impl TileProducts {
        pub(crate) unsafe fn sums(
            &self,
            _: (*const u8, Option<*const u8>),
            _: usize,
            _: [*const i8; 2],
            _: usize,
            _: &mut TileSums,
        ) {
        }
    }
}

pub(crate) use here::Tiles;
