fn main() {
    println!("scumble");
}
