// Why this file exists: `qblk list`.
import ArgumentParser
struct ListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "list", abstract: "Not yet.")
}
